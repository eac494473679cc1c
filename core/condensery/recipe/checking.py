"""Validating plain data against a model, with one line that names the place and the nearest right thing."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from condensery.errors import UnknownKey, UsageError, nearest, short
from condensery.recipe.yaml_files import line_of

SCHEMA = 1
T = TypeVar("T", bound=BaseModel)
MAPPING, LIST, WHOLE, NUMBER = "must be a mapping", "must be a list", "must be a whole number", "must be a number"
PHRASES = {
    "missing": "missing",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "string_type": "must be text",
    "greater_than": "must be > {gt}",
    "greater_than_equal": "must be >= {ge}",
    "less_than": "must be < {lt}",
    "less_than_equal": "must be <= {le}",
    "literal_error": "must be {expected}",
    **dict.fromkeys(("dict_type", "mapping_type", "model_type", "model_attributes_type", "dataclass_type"), MAPPING),
    **dict.fromkeys(("list_type", "tuple_type"), LIST),
    **dict.fromkeys(("int_type", "int_parsing", "int_parsing_size", "int_from_float"), WHOLE),
    **dict.fromkeys(("float_type", "float_parsing"), NUMBER),
}
"""What is wrong, in this project's words, by pydantic's type of error; of others its own sentence is turned."""


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Lay one nested mapping over another."""
    out = dict(below)
    for key, value in above.items():
        old = out.get(key)
        out[key] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return out


class Misplaced(ValueError):
    """What a validator of a whole model finds wrong at one place in it.

    :param place: fields and keys, from the outside in.
    """

    def __init__(self, place: tuple[int | str, ...], message: str) -> None:
        super().__init__(message)
        self.place = place


def checked(model: type[T], data: Any, where: str, text: str | None = None) -> T:
    """Validate plain data.

    :param text: YAML that the data were read from: messages then name the line.
    :raises UnknownKey: naming the nearest valid field.
    :raises UsageError: naming the field and what is wrong.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        loc = first["loc"] + getattr(first.get("ctx", {}).get("error"), "place", ())
        place = [part for part in loc if not _is_tag(part)]
        if text is not None:
            where = f"{where} line {line_of(text, place)}"
        if first["type"] == "extra_forbidden":
            *parents, name = place
            raise UnknownKey("field", str(name), _fields_at(model, parents), where=_at(where, parents)) from None

        raise UsageError(f"{_at(where, place)}: {complaint(first)}") from None


def complaint(error: ErrorDetails) -> str:
    """Return what pydantic finds wrong as ``must be ..., got ...``, with the nearest word that would be right."""
    if error["type"] == "value_error":  # A message of our own names the culprit itself; its input is a whole stage.
        return error["msg"].removeprefix("Value error, ")

    phrase = PHRASES.get(error["type"])
    limits = {k: f"{v:g}" if isinstance(v, float) else v for k, v in error.get("ctx", {}).items()}
    said = phrase.format(**limits) if phrase else re.sub(r"^\w+ should ", "must ", error["msg"])
    if error["type"] == "missing" or "input" not in error:
        return said

    value = error["input"]
    words = re.findall("'([^']*)'", said) if error["type"] == "literal_error" else []
    near = nearest(value, words) if isinstance(value, str) else None
    return f"{said}, got {short(value)}" + (f"; did you mean {near!r}?" if near else "")


def _at(where: str, place: Sequence[int | str]) -> str:
    return f"{where}: {'.'.join(map(str, place))}" if place else where


def _is_tag(part: int | str) -> bool:
    """Tell the names that pydantic adds to a path for the members of a union."""
    return str(part).startswith("function-") or part in {"StageSpec", "RoundSpec", "dict[str,any]", "int"}


def _fields_at(model: type[BaseModel], parents: Sequence[int | str]) -> list[str]:
    """Return the fields that would have been right below a place in plain data; a place of free names adds nothing."""
    models = [model]
    for name in parents:
        inner = [m for outer in models if name in outer.model_fields for m in _models_in(outer, str(name))]
        models = inner or models
    return [field.alias or name for found in models for name, field in found.model_fields.items()]


def _models_in(outer: type[BaseModel], field: str) -> list[type[BaseModel]]:
    """Return the models of which a field is made: ``StageSpec`` and ``RoundSpec`` for ``stages``."""
    found: list[type[BaseModel]] = []
    todo = [outer.model_fields[field].annotation]
    while todo:
        hint = todo.pop()
        if isinstance(hint, type) and issubclass(hint, BaseModel):
            found.append(hint)
        todo += get_args(hint)
    return found


def fingerprint(data: Any) -> str:
    """Return a short stable hash of plain data, for cache keys."""
    text = json.dumps([SCHEMA, data], sort_keys=True, default=str)
    return sha256(text.encode()).hexdigest()[:20]


def derive_seed(*parts: object) -> int:
    """Return a seed that depends on all parts."""
    return int(fingerprint([str(p) for p in parts])[:12], 16)
