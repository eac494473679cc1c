"""Settings laid over a recipe's plain data: ``--set stages.2.hinton-kd.T=2``. Imports no torch.

A path names fields from the outside in, separated by dots:

- ``train.epochs``, ``train.optimizer.options.momentum``, ``model.width``, ``seed``
- ``stages.2.teacher``: stages are numbered from 0, rounds counting as one; ``stages.1.stages.0.epochs`` is inside one
- ``stages.p.epochs``: a stage by its name, given or automatic, also inside rounds
- ``stages.2.hinton-kd.T``: a setting of a method; a second copy of the method in the stage is ``hinton-kd#2``
- ``stages.0.magnitude.sparsity.2``: the entry of a list, numbered from 0

Names that contain dots (methods, models) are written as they are.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import yaml
from pydantic import BaseModel

from condensery.errors import UnknownKey, UsageError
from condensery.recipe.schema import (
    ROLE_WORDS,
    DataSpec,
    Keyed,
    ModelSpec,
    PlayerSpec,
    Recipe,
    RoundSpec,
    StageSpec,
    SubsetSpec,
    TaskSpec,
    automatic_name,
)
from condensery.recipe.train_spec import BaseSpec, OptimizerSpec, ScheduleSpec, TrainSpec
from condensery.recipe.yaml_files import parse_yaml

Schema = type[BaseModel] | None
_INNER: dict[str, type[BaseModel]] = {
    "model": ModelSpec,
    "student": ModelSpec,
    "teacher": ModelSpec,
    "task": TaskSpec,
    "base": BaseSpec,
    "train": TrainSpec,
    "optimizer": OptimizerSpec,
    "schedule": ScheduleSpec,
    "data": DataSpec,
    "subset": SubsetSpec,
}
"""The fields of a recipe, stage, player or training block that have fields of their own."""


def apply_overrides(data: Mapping[str, Any], assignments: Iterable[str]) -> dict[str, Any]:
    """Return a recipe's plain data with some values changed; ``data`` stays as it is.

    :param assignments: ``path=value``; the value is YAML (``2``, ``1e-3``, ``true``, ``[0.5, 0.9]``, ``{T: 4}``), and a
        text that starts with ``=`` is a formula.
    :raises UnknownKey: for a stage, method or field that isn't there, with the nearest one.
    :raises UsageError: for a broken assignment.
    """
    values = []
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals:
            raise UsageError(f"override {assignment!r}: expected path=value, as in train.epochs=3")
        values.append((path.strip(), _plain(assignment, text.strip())))
    return set_values(data, values)


def set_values(data: Mapping[str, Any], values: Mapping[str, Any] | Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Return a recipe's plain data with the values at these paths: :func:`apply_overrides` without the text."""
    out = copy.deepcopy(dict(data))
    for path, value in values.items() if isinstance(values, Mapping) else values:
        parts = path.split(".")
        if not all(parts):
            raise UsageError(f"override {path!r}: a path is names separated by dots, as in train.epochs")
        out = _set(out, parts, copy.deepcopy(value), Recipe, path)
    return out


def _plain(assignment: str, text: str) -> Any:
    if text.startswith("="):
        return text
    try:
        value = parse_yaml(text)
        json.dumps(value)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        reason = getattr(error, "problem", None) or " ".join(str(error).split())
        raise UsageError(f"override {assignment}: the value is not plain YAML: {reason}") from None
    return value


def _set(node: Any, parts: Sequence[str], value: Any, schema: Schema, path: str) -> Any:
    """Return ``node`` with ``value`` at the place that ``parts`` names."""
    if not parts:
        return value
    head, *rest = parts
    where = f"override {path}"
    if isinstance(node, list):
        index = _index(head, node, where)
        return [*node[:index], _set(node[index], rest, value, schema, path), *node[index + 1 :]]
    if schema in (ModelSpec, TaskSpec) and isinstance(node, str):
        if node in ROLE_WORDS or node.startswith("stage:"):
            raise UsageError(f"{where}: {node!r} is no model that has settings")
        node = {"key": node}
    if not isinstance(node, Mapping | None):
        raise UsageError(f"{where}: the value there is {node!r}, which has no {head!r}")
    node = dict(node or {})
    if schema is not None and not issubclass(schema, Keyed) and head not in schema.model_fields:
        raise UnknownKey("field", head, schema.model_fields, where=where)
    if head == "stages" and schema in (Recipe, RoundSpec) and rest:
        return {**node, head: _set_stage(node.get(head) or [], rest, value, path)}
    if schema is StageSpec and head == "players" and len(rest) > 1:
        players = dict(node.get(head) or {})
        return {**node, head: {**players, rest[0]: _set(players.get(rest[0]), rest[1:], value, PlayerSpec, path)}}
    inner = None if schema is None or issubclass(schema, Keyed) else _INNER.get(head)
    return {**node, head: _set(node.get(head), rest, value, inner, path)}


def _index(head: str, items: Sequence[Any], where: str) -> int:
    if not (head.isascii() and head.isdigit() and int(head) < len(items)):
        raise UsageError(f"{where}: there is no entry {head!r}; they are numbered from 0, and there are {len(items)}")
    return int(head)


# ---------------------------------------------------------------- stages and methods


def _set_stage(items: Any, parts: Sequence[str], value: Any, path: str) -> Any:
    """Return the stages with a change in one stage or round, found by number or, at any depth, by name."""
    if not isinstance(items, list):
        raise UsageError(f"override {path}: stages is no list but {items!r}")
    items = list(items)
    if parts[0].isascii() and parts[0].isdigit():
        index = _index(parts[0], items, f"override {path}: stages")
        items[index] = _set_item(items[index], parts[1:], value, path)
        return items
    names = _names(items)
    for taken in range(len(parts), 0, -1):  # a name may contain dots: the longest that fits is meant
        place = names.get(".".join(parts[:taken]))
        if place is not None:
            first, *deeper = place
            inner = [p for step in deeper for p in ("stages", str(step))]
            items[first] = _set_item(items[first], [*inner, *parts[taken:]], value, path)
            return items
    raise UnknownKey("stage", parts[0], [*names, *map(str, range(len(items)))], where=f"override {path}")


def _names(items: Sequence[Any]) -> dict[str, list[int]]:
    """Return where each stage is, by its name; those without one are named as a recipe does it."""
    found = list(_places(items, []))
    names = {stage["name"]: place for stage, place in found if stage.get("name")}
    for stage, place in found:
        if not stage.get("name"):
            methods = [m for m, _ in map(_method, stage.get("methods") or [])]
            names[automatic_name(methods, names)] = place
    return names


def _places(items: Sequence[Any], above: list[int]) -> Iterator[tuple[Mapping[str, Any], list[int]]]:
    for number, item in enumerate(items):
        stage = _stage(item)
        if "stages" in stage:
            yield from _places(stage["stages"] or [], [*above, number])
        else:
            yield stage, [*above, number]


def _stage(item: Any) -> Mapping[str, Any]:
    """Return a stage or round as a mapping; a lone method is a stage."""
    return item if isinstance(item, Mapping) else {"methods": [item]}


def _set_item(item: Any, parts: Sequence[str], value: Any, path: str) -> Any:
    if not parts:
        return value
    stage = dict(_stage(item))
    if "stages" in stage:
        return _set(stage, parts, value, RoundSpec, path)
    if parts[0] in StageSpec.model_fields:
        return _set(stage, parts, value, StageSpec, path)
    methods = list(stage.get("methods") or [])
    keys = [key for key, _ in map(_method, methods)]
    names = [k if k not in keys[:i] else f"{k}#{keys[:i].count(k) + 1}" for i, k in enumerate(keys)]
    for taken in range(len(parts), 0, -1):
        name = ".".join(parts[:taken])
        if name in names:
            place = names.index(name)
            key, settings = _method(methods[place])
            methods[place] = {"key": key, "settings": _set(settings, parts[taken:], value, None, path)}
            return {**stage, "methods": methods}
    raise UnknownKey("method or stage field", parts[0], [*names, *StageSpec.model_fields], where=f"override {path}")


def _method(item: Any) -> tuple[str, Any]:
    """Return key and settings of a method, however it is spelt."""
    if isinstance(item, Mapping) and "key" in item:
        return str(item["key"]), item.get("settings") or {}
    if isinstance(item, Mapping) and len(item) == 1:
        ((key, settings),) = item.items()
        return str(key), settings or {}
    return str(item), {}
