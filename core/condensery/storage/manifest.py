"""What an artifact's manifest may say: a stranger may have written it, so it is checked before anything is built."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from math import prod
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from condensery.contract import Registry
from condensery.errors import ArtifactError, short
from condensery.nets import Record
from condensery.recipe import ModelSpec, checked, complaint
from condensery.tasks import TaskFacts

LARGEST = 2**24
"""The largest number among the settings of a net or a layer: a width, a depth, bits, the words of a vocabulary."""
SMALL = 2**20
"""Numbers that a stream may hold whatever the size of its tensor: those of a codebook."""
ELSEWHERE = ("weights", "init_from", "pretrained")
"""What a model's spec may say in a recipe, and not in an artifact: it holds its own weights."""
PLAIN_KEY = re.compile(r"\w[\w.+-]*(/\w[\w.+-]*)?")
"""``resnet20``, ``hf/bert``: neither the path of a folder nor an id on the hub."""
Count = Annotated[int, Field(ge=0, lt=2**48)]
Size = Annotated[int, Field(ge=0, lt=2**40)]
Crc = Annotated[int, Field(ge=0, lt=2**32)]


class Said(BaseModel):
    """A part of a manifest; later versions may say more."""

    model_config = ConfigDict(strict=True)


class StoredRecord(Said):
    """How one tensor or stream is stored, see :data:`condensery.nets.Record`."""

    codec: str
    shape: Annotated[list[Size], Field(max_length=16)]
    config: dict[str, Any] = {}
    bytes: dict[str, Count] = {}
    parts: dict[str, StoredRecord] = {}


class Offered(Said):
    """A registered layer."""

    key: str
    config: dict[str, Any] = {}


class Attached(Offered):
    """A registered transform and where it stands."""

    target: str
    name: str
    settings: dict[str, float] = {}


class StructureSaid(Said):
    """See :class:`condensery.storage.structure.Structure`."""

    model_config = ConfigDict(strict=True, extra="forbid")

    layers: dict[str, Offered] = {}
    children: dict[str, list[str]] = {}
    attributes: dict[str, dict[str, Any]] = {}
    shapes: dict[str, Annotated[list[Size], Field(max_length=16)] | None] = {}


class Keyed(BaseModel):
    """A model or a task: its key, and settings of its own."""

    key: str


class Manifest(Said):
    """All that is read of a manifest."""

    model: Keyed
    facts: dict[str, Any]
    task: Keyed | None
    structure: StructureSaid
    transforms: list[Attached]
    tensors: dict[str, dict[str, StoredRecord]]
    bits: dict[str, Annotated[int, Field(ge=0, le=64)]]
    crc: dict[str, Crc]
    origins: dict[str, str] = Field(alias="from")
    collapsed: list[dict[str, Any]] = []


def check_manifest(manifest: Any, where: str) -> None:
    """Refuse a manifest that isn't made as ours are.

    :raises ArtifactError: naming the first field that is wrong.
    """
    try:
        Manifest.model_validate(manifest)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise ArtifactError(f"{where}: damaged: its manifest's {place[:80]}: {complaint(first)[:120]}") from None


def stored_model(manifest: Mapping[str, Any], registry: Registry, where: str) -> ModelSpec:
    """Return the spec of an artifact's net.

    :raises ArtifactError: if it reaches for weights, files, folders or the hub, or has a size that no net has.
    """
    said = manifest["model"]
    for field in ELSEWHERE:
        if said.get(field):
            raise ArtifactError(f"{where}: its model says {field!r}: refused, an artifact holds its own weights")
    key = said["key"]
    if key not in registry.entries["models"] and not PLAIN_KEY.fullmatch(key):
        raise ArtifactError(f"{where}: its model {short(key)} is a folder or on the hub: refused, an artifact has none")

    spec = checked(ModelSpec, said, f"{where}: model")
    for number in numbers_in([spec.config, spec.width, spec.layers]):
        if abs(number) > LARGEST:
            raise ArtifactError(f"{where}: its model has a setting of {short(number)}, more than {LARGEST:,}")
    return spec


def stored_facts(manifest: Mapping[str, Any], where: str) -> TaskFacts:
    """Return the facts of the task that an artifact's net was made for.

    :raises ArtifactError: naming what is wrong.
    """
    try:
        facts = TaskFacts(**manifest["facts"])
        TypeAdapter(TaskFacts).validate_json(json.dumps(manifest["facts"]), strict=True)
    except (TypeError, ValidationError) as error:
        reason = complaint(error.errors(include_input=False)[0]) if isinstance(error, ValidationError) else str(error)
        raise ArtifactError(f"{where}: damaged: its task's facts: {reason[:120]}") from None
    for number in numbers_in(manifest["facts"]):
        if not 0 <= number <= LARGEST:
            raise ArtifactError(f"{where}: its task's facts have a {short(number)}; 0 to {LARGEST:,} is possible")
    return facts


def check_streams(record: Record, where: str) -> None:
    """Refuse a record in which a stream is larger than the tensor that it is a part of.

    Streams of which all numbers are equal need no bytes: their declared size is all that holds them.

    :raises ArtifactError: naming the tensor.
    """
    most = max(prod(record["shape"]), SMALL)
    for name, part in record.get("parts", {}).items():
        if prod(part["shape"]) > most:
            raise ArtifactError(f"{where}: damaged: its stream {short(name)} has more numbers than the tensor")
        check_streams(part, where)


def numbers_in(node: Any) -> Iterator[float]:
    """Yield all numbers in plain data."""
    if isinstance(node, Mapping):
        for value in node.values():
            yield from numbers_in(value)
    elif isinstance(node, list):
        for value in node:
            yield from numbers_in(value)
    elif isinstance(node, (int, float)):
        yield node
