"""The inverse of :mod:`condensery.recipe.spelling`: stages and rounds written in one line. Imports no torch."""

from __future__ import annotations

import copy
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from condensery.errors import UsageError
from condensery.recipe.schema import ModelSpec, RoundSpec, StageSpec, automatic_name, flat, parse_recipe
from condensery.recipe.spelling import FIELDS, parse, parse_value


def format_stages(stages: Sequence[StageSpec | RoundSpec]) -> str:
    """Return the composition that :func:`parse` reads as these stages, without names that a recipe gives by itself.

    :raises UsageError: naming what one line can't say: data, players, ``until``, a key with a space...
    """
    wanted = _as_in_recipe(stages)
    short = [stage.model_copy(deep=True) for stage in wanted]

    # A name is left out where the recipe then gives the stage the same one.
    for stage in flat(short):
        name, stage.name = stage.name, ""
        if _as_in_recipe(short) != wanted:
            stage.name = name

    text = _items(short, set())
    try:
        same = _as_in_recipe(parse(text)) == wanted
    except UsageError:
        same = False
    if not same:
        raise UsageError(f"one line can't say these stages (nearest: {text!r}); write a recipe file")
    return text


def _as_in_recipe(stages: Sequence[Any]) -> list[StageSpec | RoundSpec]:
    """Return stages as a recipe has them, each with a name; those given stay as they are."""
    copies = copy.deepcopy(list(stages))
    return parse_recipe({"model": "any", "task": "any", "stages": copies}).stages


def _items(items: Sequence[StageSpec | RoundSpec], names: set[str]) -> str:
    """Return how to write some stages and rounds; their names join ``names``, those of the stages before.

    :raises UsageError: for a field that one line can't say.
    """
    parts = []
    for item in items:
        unsaid = {"until", "over"} if isinstance(item, RoundSpec) else {"data", "train"}
        for field in sorted(unsaid & item.model_dump(exclude_defaults=True).keys()):
            raise UsageError(f"one line can't say {field!r} of a stage or round; write a recipe file")

        if isinstance(item, RoundSpec):
            parts.append(f"({_items(item.stages, names)}) * {item.repeat}")
        else:
            parts.append(_stage(item, names))
            names.add(item.name or automatic_name([m.key for m in item.methods], ()))
    return " -> ".join(parts)


def _stage(stage: StageSpec, names: set[str]) -> str:
    methods = " + ".join(m.key + (f"({_settings(m.settings)})" if m.settings else "") for m in stage.methods)
    plain = stage.model_dump(exclude_defaults=True)
    given = {f: plain[f] if f == "players" else getattr(stage, f) for f in FIELDS if f in plain}
    return methods + (f"{{{_settings(given, names)}}}" if given or not methods else "")


def _settings(settings: Mapping[str, Any], names: Collection[str] | None = None) -> str:
    return ", ".join(f"{name}={_say(value, names)}" for name, value in settings.items())


def _say(value: Any, names: Collection[str] | None) -> str:
    """Return how to write a value; ``names``, in the fields of a stage, are those of the stages before.

    :raises UsageError: for a value that one line can't say.
    """
    if isinstance(value, ModelSpec):
        value = value.model_dump(exclude_defaults=True)
        if len(value) == 1 and _reads_as(value["key"], value["key"], names):
            return str(value["key"])

    match value:
        case {"key": str(key)}:
            return f"{key}({_settings({k: v for k, v in value.items() if k != 'key'})})"
        case list():
            return "[" + ", ".join(_say(v, names) for v in value) + "]"
        case dict():
            return f"{{{_settings(value)}}}"
        case str():
            shorter = [value.removeprefix("stage:"), value] if names is not None else [value]
            return next((s for s in shorter if _reads_as(s, value, names)), json.dumps(value, ensure_ascii=False))
        case None | bool() | int() | float():
            return json.dumps(value)
    raise UsageError(f"one line can't say the value {value!r}; write a recipe file")


def _reads_as(text: str, value: str, names: Collection[str] | None) -> bool:
    """Tell whether a bare text means this value; with ``names``, as a role among stages of these names."""
    try:
        return bool(parse_value(f"[{text}]", names) == [value])
    except UsageError:
        return False
