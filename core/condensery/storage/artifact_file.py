"""The file of an artifact: what lies in it and where, checked and decoded without building a net."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from condensery.contract import Registry
from condensery.errors import ArtifactError, CondenseryError, PluginError, UnknownKey, in_line, short
from condensery.files import inflate, parse_json, text_limit
from condensery.nets import Cost, Record
from condensery.storage.decoding import Source, cost_of, decode
from condensery.storage.manifest import check_manifest
from condensery.storage.structure import IDENTITY
from condensery.tasks import GIVEN

ARTIFACT_FORMAT = "1"
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


class Contents(NamedTuple):
    """What lies in an artifact: its manifest, its bytes by module, and where they are."""

    manifest: dict[str, Any]
    blobs: dict[str, Tensor]
    sizes: Sizes


def read(path: Path, registry: Registry) -> Contents:
    """Return what lies in an artifact, all checked, no net built.

    :raises ArtifactError: for a file that is missing, damaged, or of another version.
    :raises PluginError: naming the package that offers what isn't installed.
    """
    if path.is_dir():
        inside = path / "artifact.safetensors"
        raise ArtifactError(
            f"{path} is a folder; " + (f"its artifact is {inside}" if inside.is_file() else "name a file")
        )
    if not path.is_file():
        raise ArtifactError(f"no such file: {path}")
    try:
        with safe_open(path, framework="pt") as handle:
            version = (handle.metadata() or {}).get("condensery")
            blobs = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118  (not a mapping)
    except (OSError, SafetensorError, ValueError, RuntimeError) as error:
        raise ArtifactError(f"{path}: not an artifact, or damaged ({in_line(error)})") from None

    if version is None or MANIFEST not in blobs:
        raise ArtifactError(f"{path}: a safetensors file, but not an artifact of condensery")
    if version != ARTIFACT_FORMAT:
        raise ArtifactError(
            f"{path}: written in format {version[:20]}, this version of condensery reads format {ARTIFACT_FORMAT}"
        )

    packed = blobs.pop(MANIFEST)
    try:
        manifest: dict[str, Any] = parse_json(inflate(packed.numpy().tobytes(), text_limit()))
        check_manifest(manifest, str(path))
        if set(blobs) != set(manifest["crc"]) or set(blobs) != set(manifest["tensors"]):
            raise ArtifactError(f"{path}: damaged: its tensors are not those that its manifest names")

        for name, blob in blobs.items():
            if blob.dtype != torch.uint8 or blob.dim() != 1:
                raise ArtifactError(f"{path}: damaged: {short(name)} is {blob.dtype}, not bytes")
            if zlib.crc32(blob.numpy().data) != manifest["crc"][name]:
                raise ArtifactError(f"{path}: damaged: the bytes of {short(name)} have changed")
            said = sum(count for record in manifest["tensors"][name].values() for count in counts_in(record))
            if said != blob.numel():
                raise ArtifactError(f"{path}: damaged: {short(name)} has {blob.numel()} bytes, its records say {said}")

        check_offered(manifest, registry, path)
        sizes = sizes_of(path.stat().st_size, packed.numel(), manifest["tensors"], registry)
    except CondenseryError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RuntimeError) as error:
        raise ArtifactError(f"{path}: damaged: its manifest can't be read ({in_line(error)})") from None
    return Contents(manifest, blobs, sizes)


def check_offered(manifest: Mapping[str, Any], registry: Registry, path: Path) -> None:
    """Refuse an artifact that needs what no installed plugin offers.

    :raises PluginError: naming it and the package to install.
    """
    for kind, key in needed(manifest):
        try:
            registry.find(kind, key)
        except UnknownKey as error:
            package = manifest["from"].get(f"{kind}:{key}")
            hint = f"; install {str(package)[:60]}" if package else "; it needs a newer condensery"
            if key == GIVEN:
                hint = "; it holds a net of somebody's own: condensery.load(path, into=net) with a net like it"
            message = f"{path}: {error.kind} {short(key)} isn't offered by any installed plugin{hint}"
            raise PluginError(message) from None


def sizes_of(file: int, manifest: int, tensors: Mapping[str, Mapping[str, Record]], registry: Registry) -> Sizes:
    """Return where the bytes of a file are; what is neither manifest nor a tensor's is safetensors' header."""
    total = sum((cost_of(r, registry) for parts in tensors.values() for r in parts.values()), start=Cost())
    return Sizes(file, total.payload, total.tables, file - manifest - total.total, manifest)


def decoded(
    manifest: Mapping[str, Any], blobs: Mapping[str, Tensor], registry: Registry, where: str
) -> dict[str, Tensor]:
    """Return the values of all tensors of an artifact by name.

    Nothing is larger than its record says; whoever reads a stranger's file checks the records' shapes before.
    """
    tensors = {}
    for module, parts in manifest["tensors"].items():
        source = Source(blobs[module], f"{where}: {module}")
        for tensor, record in parts.items():
            name = f"{module}.{tensor}" if module != ROOT else tensor
            tensors[name] = decode(record, source, registry)
    return tensors


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


def counts_in(record: Record) -> Iterator[int]:
    """Yield the lengths of all streams of a record."""
    yield from record.get("bytes", {}).values()
    for part in record.get("parts", {}).values():
        yield from counts_in(part)


def codecs_in(record: Record) -> Iterator[str]:
    """Yield the keys of all codecs of a record."""
    yield record["codec"]
    for part in record.get("parts", {}).values():
        yield from codecs_in(part)
