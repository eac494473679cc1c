"""Trees of tensors and plain values in one safetensors file, and nets that are described well enough to be rebuilt."""

from __future__ import annotations

import json
import os
import re
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from condensery.contract import Registry
from condensery.errors import ArtifactError, PluginError, short
from condensery.files import SEAL, damaged, write_atomic
from condensery.nets import Transform, attach, attached
from condensery.recipe import ModelSpec
from condensery.storage.bounds import in_words
from condensery.storage.structure import build_layer, restructure, structure_of

CHECKPOINT_FORMAT = 4
"""Of what runs save and go on from; another number whenever an earlier version's code couldn't go on from it."""
_TENSOR, _TUPLE, _PAIRS = "$tensor", "$tuple", "$pairs"
"""Keys of what stands in JSON for what JSON doesn't know; the last one for a dict whose keys aren't all texts."""


def pack(tree: Any) -> tuple[dict[str, Tensor], Any]:
    """Split a tree of dicts and lists into its tensors by path, and the rest as JSON data."""
    tensors: dict[str, Tensor] = {}
    seen: set[int] = set()

    def walk(node: Any, path: str) -> Any:
        if isinstance(node, Tensor):
            value = node.detach().cpu().contiguous()
            at = value.untyped_storage().data_ptr()
            tensors[path] = value.clone() if at in seen else value  # a file holds no memory twice
            seen.add(at)
            return {_TENSOR: path}
        if isinstance(node, Mapping):
            if all(isinstance(key, str) for key in node):
                return {key: walk(value, f"{path}/{key}") for key, value in node.items()}
            return {_PAIRS: walk(list(node.items()), path)}
        if isinstance(node, (list, tuple)):
            parts = [walk(v, f"{path}/{i}") for i, v in enumerate(node)]
            return {_TUPLE: parts} if isinstance(node, tuple) else parts
        return node

    return tensors, walk(tree, "")


def unpack(tensors: Mapping[str, Tensor], data: Any) -> Any:
    """Undo :func:`pack`."""
    if isinstance(data, dict):
        if set(data) == {_TENSOR}:
            return tensors[data[_TENSOR]]
        if set(data) == {_TUPLE}:
            return tuple(unpack(tensors, data[_TUPLE]))
        if set(data) == {_PAIRS}:
            return dict(unpack(tensors, data[_PAIRS]))
        return {k: unpack(tensors, v) for k, v in data.items()}
    if isinstance(data, list):
        return [unpack(tensors, v) for v in data]
    return data


def as_saved(tree: Any) -> Any:
    """Return a tree as a file would give it back.

    :raises TypeError: for what no file can hold.
    """
    tensors, data = pack(tree)
    return unpack(tensors, json.loads(json.dumps(data)))


def save_tree(path: Path, tree: Any) -> None:
    """Write a tree to one file, which appears whole or not at all.

    :raises FileError: if it can't be written.
    """
    tensors, data = pack(tree)
    header = {"format": CHECKPOINT_FORMAT, "tree": data}
    metadata = {"condensery": json.dumps(header), SEAL: checksum(tensors, header)}
    write_tensors(path, tensors, metadata)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file whole or not at all.

    :raises FileError: if it can't be written.
    """

    def write(temporary: Path) -> None:
        try:
            save_file(dict(tensors), temporary, dict(metadata))
        except SafetensorError as error:  # a full disk, in its own words
            code = re.search(r"code: (\d+)", str(error))
            raise OSError(int(code[1]), os.strerror(int(code[1]))) if code else OSError(str(error)) from None

    write_atomic(path, write)


def load_tree(path: Path, how: str = "remove it to make it again") -> Any:
    """Read a tree.

    :param how: to go on where it is damaged.
    :raises ArtifactError: if the file is missing, damaged, or of another version.
    """
    try:
        with safe_open(path, framework="pt") as handle:
            metadata = handle.metadata() or {}
            tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118  (not a mapping)
        header = json.loads(metadata["condensery"])
        written = header["format"]
        if written == CHECKPOINT_FORMAT:
            if metadata.get(SEAL) != checksum(tensors, header):
                raise ValueError("its checksum doesn't fit")
            return unpack(tensors, header["tree"])
    except (OSError, SafetensorError, KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise damaged(path, error, how) from None
    raise ArtifactError(f"{path}: written in format {written}, this version reads format {CHECKPOINT_FORMAT}; {how}")


def cached_tree(path: Path) -> Any | None:
    """Return a tree of the cache, or ``None`` where it is missing; one that can't be read any more is dropped."""
    if not path.is_file():
        return None
    try:
        return load_tree(path)
    except ArtifactError:
        path.unlink(missing_ok=True)
        return None


def checksum(tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> str:
    """Return a checksum of a tree: of its plain part, and of the names, types, shapes and bytes of its tensors."""
    found = zlib.crc32(json.dumps(header, sort_keys=True).encode())
    for name, value in sorted(tensors.items()):
        found = zlib.crc32(f"{name} {value.dtype} {tuple(value.shape)} ".encode(), found)
        found = zlib.crc32(value.flatten().view(torch.uint8).numpy().data, found)
    return f"{found:08x}"


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Return every parameter and buffer by name, non-persistent buffers included."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def load_tensors(model: nn.Module, saved: Mapping[str, Tensor], where: str, *, keep: bool = False) -> None:
    """Copy saved tensors into a model of the same structure.

    :param keep: the model may keep them as they are, without a copy: nobody else holds them.
    :raises ArtifactError: naming the first tensor that is missing, unexpected or of another shape; nothing is copied.
    """
    mine = tensors_of(model)
    for name in [*mine, *saved]:
        if name not in mine or name not in saved:
            raise ArtifactError(f"{where}: tensor {short(name)} is {'unexpected' if name in saved else 'missing'}")
        if mine[name].shape != saved[name].shape:
            shape, wanted = tuple(saved[name].shape), tuple(mine[name].shape)
            raise ArtifactError(f"{where}: {name!r} has shape {shape}, not {wanted}")

    with torch.no_grad():
        for name, value in saved.items():
            # Registered layers begin as float32, also in a net of float64.
            old = mine[name]
            wider = value.dtype == torch.float64 and old.is_floating_point()
            if keep and value.device == old.device and (wider or value.dtype == old.dtype):
                old.data = value
            elif wider:
                old.data = value.to(old.device, copy=True)
            else:
                old.copy_(value)


def unfit(value: Tensor, wanted: Tensor) -> str | None:
    """Return why a value can't be a parameter's, or ``None``: integer codes are no floats, and neither is infinity."""
    if value.is_floating_point() != wanted.is_floating_point():
        return f"is {value.dtype}, the net wants {wanted.dtype}"
    if value.is_floating_point() and not bool(torch.isfinite(value.to(wanted.dtype)).all()):
        return f"has numbers that are infinite or not a number as {wanted.dtype}"
    return None


def describe_net(model: nn.Module, spec: ModelSpec, fresh: nn.Module, registry: Registry) -> dict[str, Any]:
    """Return what rebuilds a net: builder, structure, transforms, tensors.

    :param fresh: what the builder makes of the spec.
    :raises PluginError: for a transform or layer that no plugin registers.
    """
    return {
        "spec": spec.model_dump(mode="json"),
        "structure": structure_of(model, fresh, registry).dump(),
        "transforms": transforms_of(model, registry),
        "tensors": tensors_of(model),
    }


def transforms_of(model: nn.Module, registry: Registry) -> list[dict[str, Any]]:
    """Return every transform on a net as JSON data.

    :raises PluginError: for a transform that no plugin registers.
    """
    found = []
    for item in attached(model):
        key = type(item.transform).key
        if key not in registry.entries["layers"]:
            raise PluginError(f"transform {type(item.transform).__name__} at {item.target} isn't in register_layers")
        described = {"target": item.target, "name": item.name, "key": key, "config": item.transform.config()}
        own = vars(item.transform).get("settings")
        found.append(described if own is None else {**described, "settings": dict(own)})
    return found


def attach_described(model: nn.Module, described: Iterable[Mapping[str, Any]], registry: Registry, where: str) -> None:
    """Attach transforms that :func:`transforms_of` described; their state is still to be filled.

    :raises PluginError: naming a transform that no plugin offers.
    """
    for item in described:
        transform = build_layer(item, registry, where)
        if not isinstance(transform, Transform):
            raise ArtifactError(f"{where}: layer {item['key']!r} is no transform, but stands on {item['target']!r}")
        if "settings" in item:
            transform.settings = {str(name): float(value) for name, value in item["settings"].items()}
        attach(model, item["target"], item["name"], transform)


def rebuild_net(
    description: Mapping[str, Any], build: Callable[[ModelSpec], nn.Module], registry: Registry
) -> tuple[nn.Module, ModelSpec]:
    """Build a described net again.

    :param build: makes the plain net of a spec.
    :raises CondenseryError: if it doesn't fit what is installed now, or is none.
    """
    try:
        spec = ModelSpec.model_validate(description["spec"])
        where = f"net {short(spec.key)}"
        model = restructure(build(unweighted(spec)), description["structure"], registry, where)
        attach_described(model, description["transforms"], registry, where)
        load_tensors(model, description["tensors"], where)
    except Exception as error:  # noqa: BLE001  A plugin that has changed since may raise anything.
        raise in_words(error, "the net of a checkpoint") from None
    return model, spec


def unweighted(spec: ModelSpec) -> ModelSpec:
    """Return the spec of the same net with random weights, which reads no file and asks no hub."""
    plain = spec.model_dump(exclude={"weights", "init_from", "pretrained"})
    return ModelSpec.model_validate(plain)
