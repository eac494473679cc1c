"""Artifacts: a compressed net in one small file, which anyone who has Condensery can load.

The file is safetensors: the manifest (compressed JSON) and, for each module that owns tensors, their bytes in one.
Nothing is unpickled, and nothing is loaded until everything has been checked.
"""

from __future__ import annotations

import dataclasses
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from condensery.contract import Registry
from condensery.errors import ArtifactError, short
from condensery.files import named_path
from condensery.nets import SITE_PREFIX, Given, Record, build_unfilled
from condensery.recipe import ModelSpec, TaskSpec
from condensery.storage.artifact_file import (
    ARTIFACT_FORMAT,
    MANIFEST,
    ROOT,
    Contents,
    Sizes,
    decoded,
    origins,
    read,
    sizes_of,
)
from condensery.storage.baking import Baked, Stored, plain
from condensery.storage.bounds import bounded, in_words
from condensery.storage.checkpoint import (
    attach_described,
    load_tensors,
    tensors_of,
    transforms_of,
    unfit,
    unweighted,
    write_tensors,
)
from condensery.storage.manifest import check_streams, stored_facts, stored_model
from condensery.storage.structure import PORTABLE, Structure, restructure, structure_of
from condensery.tasks import GIVEN, TaskFacts


@dataclasses.dataclass
class Artifact:
    """An artifact that was read.

    :param net: in eval mode; its outputs equal those of the net that was saved, bit for bit.
    :param task: that it was made on, if it says so.
    :param bits: by tensor name, the width of weights that were quantized.
    :param manifest: all it says of itself.
    """

    net: nn.Module
    model: ModelSpec
    task: TaskSpec | None
    sizes: Sizes
    bits: dict[str, int]
    manifest: dict[str, Any]


def load(path: str | Path, registry: Registry | None = None, *, into: nn.Module | None = None) -> nn.Module:
    """Return the net of an artifact, in eval mode.

    :param into: for an artifact of a net of your own, a net of the same structure: a copy of it takes the artifact's
        weights, shapes and layers.

    Loading runs no code that the file brings or names, and reaches for no other file and no network. The net is built
    without memory first: one that needs more than ``$CONDENSERY_MAX_MB`` million bytes, 1024 by default, is refused.

    :raises ArtifactError: for a file that is missing, damaged, too large, or of another version.
    :raises PluginError: naming the package that offers a layer, codec or model which isn't installed.
    """
    if into is not None:
        registry = (registry or Registry.open()).extended(GIVEN, Given(into))
    return open_artifact(path, registry).net


# ------------------------------------------------------------------ writing


def save_artifact(
    path: Path,
    baked: Baked,
    model: ModelSpec,
    facts: TaskFacts,
    registry: Registry,
    *,
    task: TaskSpec | None = None,
    collapsed: Sequence[Mapping[str, Any]] = (),
) -> Sizes:
    """Write a baked net to one file, which appears whole or not at all; returns where its bytes are.

    :param collapsed: what the run's report says of layers that died; the manifest says it too, where there is any.
    :raises PluginError: for a layer or transform that no plugin registers.
    """
    model = ModelSpec.model_validate(getattr(baked.net, PORTABLE, None) or unweighted(model).model_dump())
    fresh = build_unfilled(model, facts, registry)
    structure = structure_of(baked.net, fresh, registry)

    # One blob for each module: names and offsets weigh, on small nets, as much as the numbers.
    blobs: dict[str, Tensor] = {}
    records: dict[str, dict[str, Record]] = {}
    for where, parts in pack(baked, restructure(fresh, structure.dump(), registry, str(path)), structure):
        blobs[where] = _joined([d for s in parts.values() for d in s.data])
        records[where] = {n: s.record for n, s in parts.items()}

    manifest: dict[str, Any] = {
        "model": model.model_dump(mode="json", exclude_defaults=True),
        "facts": dataclasses.asdict(facts),
        "task": None if task is None else task.model_dump(mode="json"),
        "structure": structure.dump(),
        "transforms": transforms_of(baked.net, registry),
        "tensors": records,
        "bits": baked.bits,
        "crc": {where: zlib.crc32(blob.numpy().data) for where, blob in blobs.items()},
    }
    manifest["from"] = origins(manifest, registry)
    if collapsed:
        manifest["collapsed"] = list(collapsed)

    text = json.dumps(manifest, separators=(",", ":")).encode()
    packed = torch.frombuffer(bytearray(zlib.compress(text, 9)), dtype=torch.uint8)
    metadata = {"condensery": ARTIFACT_FORMAT}
    write_tensors(path, {MANIFEST: packed, **blobs}, metadata)
    return sizes_of(path.stat().st_size, packed.numel(), records, registry)


def pack(baked: Baked, fresh: nn.Module, structure: Structure) -> Iterator[tuple[str, dict[str, Stored]]]:
    """Yield how each tensor is stored, module by module; tables that the builder makes anyhow are left out.

    :param fresh: the builder's net with the same structure; only tables that aren't reshaped are filled.
    """
    persistent = set(baked.net.state_dict(keep_vars=True))
    made = {n: v for n, v in tensors_of(fresh).items() if n not in structure.shapes}
    modules: dict[str, dict[str, str]] = {}
    values = tensors_of(baked.net)
    for name, value in values.items():
        if name not in persistent and name in made and torch.equal(made[name], value.cpu()):
            continue
        path, tensor = split_name(name)
        modules.setdefault(path or ROOT, {})[tensor] = name

    for path, names in modules.items():
        yield path, {t: baked.stored.get(n) or plain(values[n].detach().cpu()) for t, n in names.items()}


def split_name(name: str) -> tuple[str, str]:
    """Split a tensor's name into the module that it is stored with, and the rest.

    What belongs to a transform on an activation is stored with the layer it sits on.
    """
    at = f".{name}".find(f".{SITE_PREFIX}")
    if at >= 0:
        return name[: max(at - 1, 0)], name[at:]
    path, _, tensor = name.rpartition(".")
    return path, tensor


def _joined(parts: list[Tensor]) -> Tensor:
    if len(parts) == 1:
        return parts[0]
    return torch.cat(parts) if parts else torch.empty(0, dtype=torch.uint8)


# ------------------------------------------------------------------ reading


def open_artifact(path: str | Path, registry: Registry | None = None) -> Artifact:
    """Read an artifact; see :func:`load`."""
    path = named_path(path, "an artifact's file")
    registry = registry or Registry.open()
    return built(read(path, registry), registry, str(path))


def built(contents: Contents, registry: Registry, where: str) -> Artifact:
    """Return an artifact whose file was read, with its net.

    :param where: it lies, for messages.
    :raises ArtifactError: if its manifest describes no net, or another one than its bytes are of.
    """
    manifest, blobs, sizes = contents
    model, facts = stored_model(manifest, registry, where), stored_facts(manifest, where)

    try:
        with bounded(where):
            net = restructure(build_unfilled(model, facts, registry), manifest["structure"], registry, where)
            attach_described(net, manifest["transforms"], registry, where)
        check_shapes(net, manifest, where)

        # Tables outside the state, such as positions, are as the builder made them unless the file has them.
        persistent = set(net.state_dict(keep_vars=True))
        tables = {n: v for n, v in tensors_of(net).items() if n not in persistent}
        stored = decoded(manifest, blobs, registry, where)
        check_numbers(stored, net, where)
        load_tensors(net, tables | stored, where, keep=True)
        task = None if manifest["task"] is None else TaskSpec.model_validate(manifest["task"])
    except Exception as error:  # noqa: BLE001  Builders, layers and codecs may make anything of a changed description.
        raise in_words(error, where) from None

    net.eval().requires_grad_(False)
    return Artifact(net, model, task, sizes, manifest["bits"], manifest)


def check_shapes(net: nn.Module, manifest: Mapping[str, Any], where: str) -> None:
    """Refuse tensors that the net doesn't have in this shape, before one is decoded: a shape decides its memory.

    :raises ArtifactError: naming the first tensor.
    """
    mine = tensors_of(net)
    for module, parts in manifest["tensors"].items():
        for tensor, record in parts.items():
            name = f"{module}.{tensor}" if module != ROOT else tensor
            if name not in mine:
                raise ArtifactError(f"{where}: tensor {short(name)} is unexpected")
            if list(mine[name].shape) != record["shape"]:
                wanted = tuple(mine[name].shape)
                raise ArtifactError(f"{where}: {name!r} has shape {short(tuple(record['shape']))}, not {short(wanted)}")
            check_streams(record, f"{where}: {short(name)}")


def check_numbers(stored: Mapping[str, Tensor], net: nn.Module, where: str) -> None:
    """Refuse weights that are infinite or not a number, and whole numbers in the place of floats.

    :raises ArtifactError: naming the first tensor.
    """
    for name, parameter in net.named_parameters():
        value = stored.get(name)
        if value is not None:
            wrong = unfit(value, parameter)
            if wrong:
                raise ArtifactError(f"{where}: {name!r} {wrong}")
