"""Reading a stored tensor: from its record and its bytes, through codecs that are found by key."""

from __future__ import annotations

from torch import Tensor

from condensery.contract import Registry
from condensery.errors import ArtifactError, PluginError, in_line, short
from condensery.nets import Branch, Coding, Cost, Leaf, Record


class Source:
    """Bytes that are read from the front.

    :param data: uint8, one-dimensional.
    :param where: for messages.
    """

    def __init__(self, data: Tensor, where: str) -> None:
        self.data, self.where, self.at = data, where, 0

    def take(self, count: int) -> Tensor:
        """Return the next bytes.

        :raises ArtifactError: if there are fewer.
        """
        if not 0 <= count <= self.data.numel() - self.at:
            raise ArtifactError(f"{self.where}: {count} bytes expected, {self.data.numel() - self.at} are left")
        self.at += count
        return self.data[self.at - count : self.at]


def decode(record: Record, source: Source, registry: Registry) -> Tensor:
    """Return the tensor of a record.

    :raises PluginError: naming a codec that no plugin offers.
    :raises ArtifactError: if the bytes don't fit the record.
    """
    codec = codec_of(record, registry, source.where)
    if "bytes" in record:
        streams = {n: source.take(count) for n, count in record["bytes"].items()}
    else:
        streams = {n: decode(part, source, registry) for n, part in record.get("parts", {}).items()}
    try:
        return codec.decode(streams, record["shape"])
    except Exception as error:  # noqa: BLE001  Codecs may make anything of changed bytes.
        raise ArtifactError(f"{source.where}: {record['codec']} can't read it: {in_line(error)}") from None


def codec_of(record: Record, registry: Registry, where: str) -> Leaf | Branch:
    """Return the codec of a record, built for decoding.

    :raises PluginError: naming a codec that no plugin offers, or one that is neither a leaf nor a branch.
    :raises ArtifactError: if it can't be built from the record's config.
    """
    key = record["codec"]
    if key not in registry.entries["codecs"]:
        raise PluginError(f"{where}: codec {short(key)} isn't offered by any installed plugin")
    try:
        codec = registry.load("codecs", key)(**record.get("config", {}))
    except (TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        raise ArtifactError(f"{where}: codec {key!r}: {in_line(error)}") from None
    if not isinstance(codec, Leaf | Branch):
        raise PluginError(f"{where}: codec {key!r} is neither a Leaf nor a Branch of condensery.nets.codecs")
    return codec


def coding_of(record: Record, registry: Registry, where: str) -> Coding:
    """Return the coding that a record describes, built for decoding; it can be spelt."""
    parts = {n: coding_of(part, registry, where) for n, part in record.get("parts", {}).items()}
    return Coding(codec_of(record, registry, where), parts)


def cost_of(record: Record, registry: Registry) -> Cost:
    """Return the bytes of a stored tensor, by its record."""
    tables = codec_of(record, registry, "record").tables
    total = Cost()
    for name, count in record.get("bytes", {}).items():
        total += Cost(0, count) if name in tables else Cost(count)
    for name, part in record.get("parts", {}).items():
        cost = cost_of(part, registry)
        total += cost.as_tables() if name in tables else cost
    return total
