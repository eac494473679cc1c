"""Artifacts: a compressed net in one small file, which anyone who has Condensery can load.

The file is safetensors: the manifest (compressed JSON) and, for each module that owns tensors, their bytes in one.
Nothing is unpickled, and nothing is loaded until everything has been checked.
"""

from __future__ import annotations

import dataclasses
import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from condensery.bake import Baked, Stored, plain
from condensery.checkpoint import attach_described, load_tensors, tensors_of, transforms_of, unweighted
from condensery.codecs import Cost, Record
from condensery.data import write_atomic
from condensery.decoding import Source, cost_of, decode
from condensery.errors import ArtifactError, CondenseryError, PluginError, UnknownKey
from condensery.models import build_net
from condensery.recipe import ModelSpec, TaskSpec
from condensery.registry import Registry
from condensery.structure import IDENTITY, PORTABLE, Structure, restructure, structure_of
from condensery.tasks import TaskFacts
from condensery.transforms import SITE_PREFIX

FORMAT = "1"
MANIFEST = "$manifest"
ROOT = "$root"


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Where the bytes of a file are.

    :param header: of safetensors: names and offsets.
    """

    file: int
    payload: int
    tables: int
    header: int
    manifest: int

    def dump(self) -> dict[str, float]:
        """Return plain data; ``kilobytes`` counts as papers do: payload and tables, 1000 bytes each."""
        return dataclasses.asdict(self) | {"kilobytes": (self.payload + self.tables) / 1000}


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


def load(path: str | Path, registry: Registry | None = None) -> nn.Module:
    """Return the net of an artifact, in eval mode.

    :raises ArtifactError: for a file that is missing, damaged, or of another version.
    :raises PluginError: naming the package that offers a layer, codec or model which isn't installed.
    """
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
) -> Sizes:
    """Write a baked net to one file, which appears whole or not at all; returns where its bytes are.

    :raises PluginError: for a layer or transform that no plugin registers.
    """
    model = ModelSpec.model_validate(getattr(baked.net, PORTABLE, None) or unweighted(model).model_dump())
    fresh = build_net(model, facts, registry, 0)
    structure = structure_of(baked.net, fresh, registry)
    modules = pack(baked, restructure(fresh, structure.dump(), registry, str(path)), structure)
    blobs = {path: _joined([d for s in parts.values() for d in s.data]) for path, parts in modules.items()}
    records = {path: {n: s.record for n, s in parts.items()} for path, parts in modules.items()}
    manifest: dict[str, Any] = {
        "model": model.model_dump(mode="json", exclude_defaults=True),
        "facts": dataclasses.asdict(facts),
        "task": None if task is None else task.model_dump(mode="json"),
        "structure": structure.dump(),
        "transforms": transforms_of(baked.net, registry),
        "tensors": records,
        "bits": baked.bits,
        "crc": {path: zlib.crc32(blob.numpy().tobytes()) for path, blob in blobs.items()},
    }
    manifest["from"] = origins(manifest, registry)
    text = json.dumps(manifest, separators=(",", ":")).encode()
    packed = torch.frombuffer(bytearray(zlib.compress(text, 9)), dtype=torch.uint8)
    metadata = {"condensery": FORMAT}
    write_atomic(path, lambda temporary: save_file({MANIFEST: packed, **blobs}, temporary, metadata))
    return sizes_of(path.stat().st_size, packed.numel(), records, registry)


def pack(baked: Baked, fresh: nn.Module, structure: Structure) -> dict[str, dict[str, Stored]]:
    """Return how each tensor is stored, by module and name; tables that the builder makes anyhow are left out.

    :param fresh: the builder's net with the same structure; only tensors that aren't reshaped are filled.
    """
    persistent = set(baked.net.state_dict(keep_vars=True))
    made = {n: v for n, v in tensors_of(fresh).items() if n not in structure.shapes}
    modules: dict[str, dict[str, Stored]] = {}
    for name, value in tensors_of(baked.net).items():
        if name not in persistent and name in made and torch.equal(made[name], value.cpu()):
            continue
        path, tensor = split_name(name)
        kept = baked.stored.get(name) or plain(value.detach().cpu())
        modules.setdefault(path or ROOT, {})[tensor] = kept
    return modules


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
    return torch.cat(parts) if parts else torch.empty(0, dtype=torch.uint8)


def origins(manifest: Mapping[str, Any], registry: Registry) -> dict[str, str]:
    """Return, for each registered thing that the artifact needs, the distribution it came with."""
    sources = {p.name: p.source for p in registry.plugins}
    found = {}
    for kind, key in needed(manifest):
        plugin = registry.find(kind, key).plugin
        source = sources.get(plugin, "condensery").partition(" ")[0]
        if source != "condensery":
            found[f"{kind}:{key}"] = source
    return found


def needed(manifest: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield ``(kind, key)`` of every registered thing that an artifact is made of."""
    yield "models", manifest["model"]["key"]
    for layer in manifest["structure"].get("layers", {}).values():
        if layer["key"] != IDENTITY:
            yield "layers", layer["key"]
    for transform in manifest["transforms"]:
        yield "layers", transform["key"]
    for parts in manifest["tensors"].values():
        for record in parts.values():
            for key in codecs_in(record):
                yield "codecs", key


def codecs_in(record: Record) -> Iterator[str]:
    """Yield the keys of all codecs of a record."""
    yield record["codec"]
    for part in record.get("parts", {}).values():
        yield from codecs_in(part)


# ------------------------------------------------------------------ reading


def open_artifact(path: str | Path, registry: Registry | None = None) -> Artifact:
    """Read an artifact; see :func:`load`."""
    path = Path(path)
    registry = registry or Registry.open()
    manifest, blobs, sizes = read(path, registry)
    where = str(path)
    try:
        model = ModelSpec.model_validate(manifest["model"])
        facts = TaskFacts(**manifest["facts"])
        net = build_net(model, facts, registry, 0)
        net = restructure(net, manifest["structure"], registry, where)
        attach_described(net, manifest["transforms"], registry, where)
        persistent = set(net.state_dict(keep_vars=True))
        tensors = {n: v for n, v in tensors_of(net).items() if n not in persistent}
        for module, parts in manifest["tensors"].items():
            source = Source(blobs[module], f"{where}: {module}")
            for tensor, record in parts.items():
                name = f"{module}.{tensor}" if module != ROOT else tensor
                tensors[name] = decode(record, source, registry)
        load_tensors(net, tensors, where)
        task = None if manifest["task"] is None else TaskSpec.model_validate(manifest["task"])
        bits = {str(name): int(width) for name, width in manifest["bits"].items()}
    except CondenseryError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
        raise ArtifactError(f"{path}: damaged: {type(error).__name__}: {error}") from None
    net.eval().requires_grad_(False)
    return Artifact(net, model, task, sizes, bits, manifest)


def read(path: Path, registry: Registry) -> tuple[dict[str, Any], dict[str, Tensor], Sizes]:
    """Return an artifact's manifest, its bytes by module, and where they are; all checked, no net built.

    :raises ArtifactError: for a file that is missing, damaged, or of another version.
    :raises PluginError: naming the package that offers what isn't installed.
    """
    if not path.is_file():
        raise ArtifactError(f"no such file: {path}")
    try:
        with safe_open(path, framework="pt") as handle:
            version = (handle.metadata() or {}).get("condensery")
            blobs = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118  (not a mapping)
    except (OSError, SafetensorError, ValueError, RuntimeError) as error:
        raise ArtifactError(f"{path}: not an artifact, or damaged ({' '.join(str(error).split())})") from None
    if version is None or MANIFEST not in blobs:
        raise ArtifactError(f"{path}: a safetensors file, but not an artifact of condensery")
    if version != FORMAT:
        raise ArtifactError(f"{path}: written in format {version}, this version of condensery reads format {FORMAT}")
    packed = blobs.pop(MANIFEST)
    try:
        manifest: dict[str, Any] = json.loads(zlib.decompress(packed.numpy().tobytes()))
        if set(blobs) != set(manifest["crc"]) or set(blobs) != set(manifest["tensors"]):
            raise ArtifactError(f"{path}: damaged: its tensors are not those that its manifest names")
        for name, blob in blobs.items():
            if zlib.crc32(blob.numpy().tobytes()) != manifest["crc"][name]:
                raise ArtifactError(f"{path}: damaged: the bytes of {name!r} have changed")
        check_offered(manifest, registry, path)
        sizes = sizes_of(path.stat().st_size, packed.numel(), manifest["tensors"], registry)
    except (zlib.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(f"{path}: damaged: its manifest can't be read ({error})") from None
    return manifest, blobs, sizes


def check_offered(manifest: Mapping[str, Any], registry: Registry, path: Path) -> None:
    """Refuse an artifact that needs what no installed plugin offers.

    :raises PluginError: naming it and the package to install.
    """
    for kind, key in needed(manifest):
        try:
            registry.find(kind, key)
        except UnknownKey as error:
            package = manifest["from"].get(f"{kind}:{key}")
            hint = f"; install {package}" if package else "; it needs a newer condensery"
            message = f"{path}: {error.kind} {key!r} isn't offered by any installed plugin{hint}"
            raise PluginError(message) from None


def sizes_of(file: int, manifest: int, tensors: Mapping[str, Mapping[str, Record]], registry: Registry) -> Sizes:
    """Return where the bytes of a file are; what is neither manifest nor a tensor's is safetensors' header."""
    total = sum((cost_of(r, registry) for parts in tensors.values() for r in parts.values()), start=Cost())
    return Sizes(file, total.payload, total.tables, file - manifest - total.total, manifest)
