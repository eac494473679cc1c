"""Trees of tensors and plain values in one safetensors file, and nets that are described well enough to be rebuilt."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from condensery.contract import Registry
from condensery.errors import ArtifactError, PluginError
from condensery.files import write_atomic
from condensery.nets import Transform, attach, attached
from condensery.recipe import ModelSpec
from condensery.storage.structure import build_layer, restructure, structure_of

CHECKPOINT_FORMAT = 2
_MARK = "$tensor"


def pack(tree: Any) -> tuple[dict[str, Tensor], Any]:
    """Split a tree of dicts and lists into its tensors by path, and the rest as JSON data."""
    tensors: dict[str, Tensor] = {}

    def walk(node: Any, path: str) -> Any:
        if isinstance(node, Tensor):
            tensors[path] = node.detach().to("cpu", copy=True).contiguous()
            return {_MARK: path}
        if isinstance(node, Mapping):
            return {str(k): walk(v, f"{path}/{k}") for k, v in node.items()}
        if isinstance(node, (list, tuple)):
            return [walk(v, f"{path}/{i}") for i, v in enumerate(node)]
        return node

    return tensors, walk(tree, "")


def unpack(tensors: Mapping[str, Tensor], data: Any) -> Any:
    """Undo :func:`pack`."""
    if isinstance(data, dict):
        if set(data) == {_MARK}:
            return tensors[data[_MARK]]
        return {k: unpack(tensors, v) for k, v in data.items()}
    if isinstance(data, list):
        return [unpack(tensors, v) for v in data]
    return data


def save_tree(path: Path, tree: Any) -> None:
    """Write a tree to one file, which appears whole or not at all."""
    tensors, data = pack(tree)
    metadata = {"condensery": json.dumps({"format": CHECKPOINT_FORMAT, "tree": data})}
    write_atomic(path, lambda temporary: save_file(tensors, temporary, metadata))


def load_tree(path: Path) -> Any:
    """Read a tree.

    :raises ArtifactError: if the file is missing, damaged, or of another version.
    """
    try:
        with safe_open(path, framework="pt") as handle:
            metadata = handle.metadata() or {}
            tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118  (not a mapping)
        header = json.loads(metadata["condensery"])
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise ArtifactError(f"{path}: not a checkpoint of condensery, or damaged ({error})") from None

    if header.get("format") != CHECKPOINT_FORMAT:
        raise ArtifactError(
            f"{path}: written in format {header.get('format')}, this version reads format {CHECKPOINT_FORMAT}"
        )
    return unpack(tensors, header["tree"])


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
            raise ArtifactError(f"{where}: tensor {name!r} is {'unexpected' if name in saved else 'missing'}")
        if mine[name].shape != saved[name].shape:
            shape, wanted = tuple(saved[name].shape), tuple(mine[name].shape)
            raise ArtifactError(f"{where}: {name!r} has shape {shape}, not {wanted}")

    with torch.no_grad():
        for name, value in saved.items():
            if keep and value.dtype == mine[name].dtype and value.device == mine[name].device:
                mine[name].data = value
            else:
                mine[name].copy_(value)


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
        found.append({"target": item.target, "name": item.name, "key": key, "config": item.transform.config()})
    return found


def attach_described(model: nn.Module, described: Iterable[Mapping[str, Any]], registry: Registry, where: str) -> None:
    """Attach transforms that :func:`transforms_of` described; their state is still to be filled.

    :raises PluginError: naming a transform that no plugin offers.
    """
    for item in described:
        transform = build_layer(item, registry, where)
        assert isinstance(transform, Transform)
        attach(model, item["target"], item["name"], transform)


def rebuild_net(
    description: Mapping[str, Any], build: Callable[[ModelSpec], nn.Module], registry: Registry
) -> tuple[nn.Module, ModelSpec]:
    """Build a described net again.

    :param build: makes the plain net of a spec.
    """
    spec = ModelSpec.model_validate(description["spec"])
    where = f"net {spec.key}"
    model = restructure(build(unweighted(spec)), description["structure"], registry, where)
    attach_described(model, description["transforms"], registry, where)
    load_tensors(model, description["tensors"], where)
    return model, spec


def unweighted(spec: ModelSpec) -> ModelSpec:
    """Return the spec of the same net with random weights."""
    return spec.model_copy(update={"weights": None, "init_from": None})
