"""Settings laid over a recipe's plain data: ``--set stages.2.hinton-kd.T=2``. Imports no torch.

A path names fields from the outside in, separated by dots:

- ``train.epochs``, ``train.optimizer.options.momentum``, ``model.width``, ``seed``
- ``stages.2.teacher``: stages are numbered from 0, rounds counting as one; ``stages.1.stages.0.epochs`` is inside one
- ``stages.p.epochs``: a stage by its name, given or automatic, also inside rounds
- ``stages.2.hinton-kd.T``: a setting of a method; a second copy of the method in the stage is ``hinton-kd#2``
- ``stages.0.magnitude.sparsity.2``: the entry of a list, numbered from 0
- ``stages.0.magnitude.density.layer1.0.conv1``: what a setting says of one layer; the rest of the path is the layer's

Names that contain dots (methods, models, layers) are written as they are.
"""

from __future__ import annotations

import copy
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from condensery.errors import UnknownKey, UsageError, cut, short
from condensery.recipe.schema import (
    ROLE_WORDS,
    BaseSpec,
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
from condensery.recipe.train_spec import OptimizerSpec, ScheduleSpec, TrainSpec
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
            raise UsageError(f"override {short(assignment)}: expected path=value, as in train.epochs=3")
        values.append((path.strip(), _plain(assignment, text.strip())))

    return set_values(data, values)


def set_values(data: Mapping[str, Any], values: Mapping[str, Any] | Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Return a recipe's plain data with the values at these paths: :func:`apply_overrides` without the text."""
    out = copy.deepcopy(dict(data))
    for path, value in values.items() if isinstance(values, Mapping) else values:
        parts = path.split(".")
        if not all(parts):
            raise UsageError(f"override {short(path)}: a path is names separated by dots, as in train.epochs")
        out = _Override(path, copy.deepcopy(value)).into(out, parts, Recipe)
    return out


def _plain(assignment: str, text: str) -> Any:
    """Return what a text says: a formula stays one, the rest is YAML."""
    try:
        return text if text.startswith("=") else parse_yaml(text)
    except UsageError as error:
        raise UsageError(f"override {cut(assignment)}: {error}") from None


class _Override:
    """One value on its way to the place that its path names. Each step returns its node with the value in it."""

    def __init__(self, path: str, value: Any) -> None:
        self.where = f"override {cut(path)}"
        self.value = value

    def into(self, node: Any, parts: Sequence[str], schema: Schema) -> Any:
        """Put the value into a node of plain data.

        :param parts: what is left of the path.
        :param schema: the model that the node is of, if it is known.
        """
        if not parts:
            return self.value
        head, *rest = parts
        if isinstance(node, list):
            index = self.index(head, node)
            return [*node[:index], self.into(node[index], rest, schema), *node[index + 1 :]]

        # A model or task without settings is written as its key alone.
        if schema in (ModelSpec, TaskSpec) and isinstance(node, str):
            if node in ROLE_WORDS or node.startswith("stage:"):
                raise UsageError(f"{self.where}: {short(node)} is no model that has settings")
            node = {"key": node}
        if not isinstance(node, Mapping | None):
            raise UsageError(f"{self.where}: the value there is {short(node)}, which has no {short(head)}")

        # Where keys are free, one may have dots, and of those that are there the longest is meant.
        known, below = _longest(parts, node or {}) if schema is None else (None, [])
        if known is not None:
            head, rest = known, below

        # What is keyed has settings of its own beside its fields, which no schema here knows.
        fields = {} if schema is None or issubclass(schema, Keyed) else schema.model_fields
        if fields and head not in fields:
            raise UnknownKey("field", head, fields, where=self.where)

        inner = (node or {}).get(head)
        if head == "stages" and schema in (Recipe, RoundSpec) and rest:
            inner = self.into_stages(inner or [], rest)
        elif head == "players" and schema is StageSpec and len(rest) > 1:
            name, *rest = rest
            players = inner or {}
            inner = {**players, name: self.into(players.get(name), rest, PlayerSpec)}
        else:
            inner = self.into(inner, rest, _INNER.get(head) if fields else None)
        return {**(node or {}), head: inner}

    def into_stages(self, items: Any, parts: Sequence[str]) -> Any:
        """Put the value into one of some stages and rounds, found by number or, at any depth, by name."""
        if not isinstance(items, list):
            raise UsageError(f"{self.where}: stages is no list but {short(items)}")

        head, *rest = parts
        if head.isascii() and head.isdigit():
            index = self.index(head, items, "stages: ")
        else:
            names = _names(items)
            name, rest = _longest(parts, names)
            if name is None:
                raise UnknownKey("stage", head, [*names, *map(str, range(len(items)))], where=self.where)
            index, *deeper = names[name]
            rest = [part for number in deeper for part in ("stages", str(number))] + rest
        return [*items[:index], self.into_stage(items[index], rest), *items[index + 1 :]]

    def into_stage(self, item: Any, parts: Sequence[str]) -> Any:
        """Put the value into a stage or round, or into a method of the stage."""
        if not parts:
            return self.value
        stage = _stage(item)
        if "stages" in stage:
            return self.into(stage, parts, RoundSpec)
        if parts[0] in StageSpec.model_fields:
            return self.into(stage, parts, StageSpec)

        methods = list(stage.get("methods") or [])
        keys = [key for key, _ in map(_method, methods)]
        names = [key if key not in keys[:i] else f"{key}#{keys[:i].count(key) + 1}" for i, key in enumerate(keys)]
        name, rest = _longest(parts, names)
        if name is None:
            raise UnknownKey("method or stage field", parts[0], [*names, *StageSpec.model_fields], where=self.where)

        place = names.index(name)
        key, settings = _method(methods[place])
        methods[place] = {"key": key, "settings": self.into_settings(settings, rest)}
        return {**stage, "methods": methods}

    def into_settings(self, settings: Mapping[str, Any], parts: Sequence[str]) -> Any:
        """Put the value into a method's settings."""
        if not parts:
            return self.value
        name, *rest = parts
        inner = settings.get(name)

        # A setting that is a mapping is keyed by layers, whose paths have dots; the layer may not be in it yet.
        if rest and isinstance(inner, Mapping | None) and _longest(rest, inner or {})[0] is None:
            rest = [".".join(rest)]
        return {**settings, name: self.into(inner, rest, None)}

    def index(self, head: str, items: Sequence[Any], what: str = "") -> int:
        """Return the number of an entry.

        :raises UsageError: if it is no number, or there is no such entry.
        """
        if head.isascii() and head.isdigit() and int(head) < len(items):
            return int(head)
        raise UsageError(
            f"{self.where}: {what}there is no entry {short(head)}; they are numbered from 0, and there are {len(items)}"
        )


# ---------------------------------------------------------------- stages and methods


def _longest(parts: Sequence[str], names: Container[str]) -> tuple[str | None, list[str]]:
    """Return the name with which a path begins, and the rest of it; a name may have dots, and the longest is meant."""
    for taken in range(len(parts), 0, -1):
        name = ".".join(parts[:taken])
        if name in names:
            return name, list(parts[taken:])
    return None, []


def _names(items: Sequence[Any]) -> dict[str, list[int]]:
    """Return where each stage is, by its name; those without one are named as a recipe does it."""
    found = list(_places(items, []))
    names = {stage["name"]: place for stage, place in found if stage.get("name")}
    for stage, place in found:
        if not stage.get("name"):
            methods = [key for key, _ in map(_method, stage.get("methods") or [])]
            names[automatic_name(methods, names)] = place
    return names


def _places(items: Sequence[Any], above: list[int]) -> Iterator[tuple[Mapping[str, Any], list[int]]]:
    """Yield each stage, inside rounds too, with the numbers that lead to it."""
    for number, item in enumerate(items):
        stage = _stage(item)
        if "stages" in stage:
            yield from _places(stage["stages"] or [], [*above, number])
        else:
            yield stage, [*above, number]


def _stage(item: Any) -> Mapping[str, Any]:
    """Return a stage or round as a mapping; a lone method is a stage."""
    return item if isinstance(item, Mapping) else {"methods": [item]}


def _method(item: Any) -> tuple[str, Any]:
    """Return key and settings of a method, however it is spelt."""
    if isinstance(item, Mapping) and "key" in item:
        return str(item["key"]), item.get("settings") or {}
    if isinstance(item, Mapping) and len(item) == 1:
        ((key, settings),) = item.items()
        return str(key), settings or {}
    return str(item), {}
