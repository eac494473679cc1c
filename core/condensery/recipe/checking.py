"""Validating plain data against a model, with one line that names the place and the nearest right thing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from condensery.errors import UnknownKey, UsageError, short
from condensery.recipe.yaml_files import line_of

SCHEMA = 1
T = TypeVar("T", bound=BaseModel)


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

        # A message of our own names the culprit itself; its input is the whole stage or recipe.
        got = "" if first["type"] == "value_error" else f" (got {short(first['input'])})"
        message = first["msg"].removeprefix("Value error, ")
        raise UsageError(f"{_at(where, place)}: {message}{got}") from None


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
