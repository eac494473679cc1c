"""Which cells the matrix has, in the order in which they are run, and the recipe of each."""

from __future__ import annotations

import dataclasses
import fnmatch
import itertools
import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from condensery.contract import Registry
from condensery.recipe import Recipe, flat, format_stages, merge, parse_recipe
from condensery.testing import NETWORKS, Case
from condensery_catalogue.matrix.cells import JOINED, Kind, NetFacts

EPOCHS, STEPS, BATCH = 2, 10, 32
"""Of each stage: two epochs, because many methods act between epochs, of ten steps each."""
SEEDS = 3
"""Of a method alone; the deviation over them is what a difference has to exceed."""
PAIR_SEEDS = 2
"""Of the pairs of representatives on :data:`FIRST`."""
FIRST = "CNN"
"""The net that representatives are paired on first, and with several seeds."""
ADAM = {"name": "adamw", "lr": 5e-4, "weight_decay": 0.01}
TRAIN: dict[str, Any] = {"epochs": EPOCHS, "batch_size": BATCH, "max_steps": STEPS, "schedule": {"name": "cosine"}}


@dataclasses.dataclass(frozen=True)
class Net:
    """A small net that the matrix is run on.

    :param given: model and task, as a recipe has them.
    :param base: how it is trained once, where that differs from the task's own base recipe.
    :param optimizer: of the stages: a few careful steps, so that what a method costs shows, and not the steps.
    :param chance: the task's main figure of a net that knows nothing; ``None``: that of a guess among its classes.
    """

    given: Mapping[str, Any]
    base: Mapping[str, Any]
    optimizer: Mapping[str, Any]
    chance: float | None = None


CAREFUL = {"lr": 0.02, "options": {"momentum": 0.9}}
NETS: dict[str, Net] = {
    "CNN": Net(NETWORKS["CNN"], {}, CAREFUL),
    "ViT": Net(NETWORKS["ViT"], {"epochs": 40, "optimizer": {**ADAM, "lr": 2e-3}}, ADAM),
    "Transformer": Net(NETWORKS["Transformer"], {}, ADAM),
    "LSTM": Net({"model": {"key": "lstm", "hidden": 32}, "task": "digit-rows"}, {}, ADAM),
    "detector": Net({"model": "cell-detector", "task": "squares"}, {}, ADAM, chance=0.0),
    "pose": Net({"model": {"key": "heat-maps", "width": 0.5}, "task": "digits-keypoints"}, {}, ADAM, chance=0.0),
    "segmenter": Net({"model": "pixel-classifier", "task": "brightest"}, {}, ADAM, chance=20.0),
}
PAIRED = tuple(NETWORKS)
"""Nets that pairs are run on."""


@dataclasses.dataclass(frozen=True)
class Planned:
    """A cell that is to be run.

    :param seeds: how many, from 0.
    """

    net: str
    kind: Kind
    methods: tuple[str, ...]
    seeds: int = 1

    @property
    def title(self) -> str:
        """How it is named where it is shown, and chosen: ``CNN: magnitude -> lsq``."""
        return f"{self.net}: {JOINED[self.kind].join(self.methods)}"


def planned(registry: Registry, seed: int = 0) -> list[Planned]:
    """Return all cells in the order in which they are run.

    Every method alone on every net; then one representative for each cell of the taxonomy in all pairs, first on one
    net with several seeds; then all other pairs in an order that a seed decides, so that a budget takes a sample.
    """
    keys = registry.keys("methods")
    alone = [Planned(net, "alone", (key,), SEEDS) for key in keys for net in NETS]

    some = representatives(registry, keys)
    first = [dataclasses.replace(pair, seeds=PAIR_SEEDS) for pair in pairs(some, [FIRST])]
    others = _shuffled(pairs(some, [net for net in PAIRED if net != FIRST]), seed)

    taken = {(cell.net, cell.kind, cell.methods) for cell in (*first, *others)}
    rest = [cell for cell in pairs(keys, PAIRED) if (cell.net, cell.kind, cell.methods) not in taken]
    return [*alone, *first, *others, *_shuffled(rest, seed)]


def _shuffled(cells: Iterable[Planned], seed: int) -> list[Planned]:
    mixed = list(cells)
    random.Random(seed).shuffle(mixed)
    return mixed


def pairs(keys: Sequence[str], nets: Iterable[str]) -> list[Planned]:
    """Return all ordered pairs of some methods, and each two of them in one stage, on some nets."""
    return [
        *(Planned(net, "then", pair) for net in nets for pair in itertools.permutations(keys, 2)),
        *(Planned(net, "with", pair) for net in nets for pair in itertools.combinations(keys, 2)),
    ]


def chosen(cells: Iterable[Planned], pattern: str | None) -> list[Planned]:
    """Return the cells whose titles fit a pattern, and what their methods come to alone, which they are compared with.

    :param pattern: with ``*`` and ``?``, or a part of the title; ``None``: all.
    """
    cells = list(cells)
    if pattern is None:
        return cells
    wanted = pattern if any(sign in pattern for sign in "*?") else f"*{pattern}*"
    found = {cell for cell in cells if fnmatch.fnmatchcase(cell.title, wanted)}
    halves = {(cell.net, (method,)) for cell in found for method in cell.methods}
    return [cell for cell in cells if cell in found or (cell.kind == "alone" and (cell.net, cell.methods) in halves)]


# ---------------------------------------------------------------- representatives


def representatives(registry: Registry, keys: Sequence[str]) -> list[str]:
    """Return one method for each cell of the taxonomy: that with the most claims, the first of several by key."""
    found: dict[tuple[str, ...], list[str]] = {}
    for key in sorted(keys):
        found.setdefault(taxonomy_cell(registry.card(key) or {}), []).append(key)
    return sorted(max(some, key=lambda key: _claims(registry, key)) for some in found.values())


def _claims(registry: Registry, key: str) -> int:
    return len((registry.card(key) or {}).get("claims", ()))


def taxonomy_cell(card: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the words that tell a method's cell of the taxonomy.

    Of pruning what goes, of quantization what gets how many bits, of distillation which knowledge comes from whom, of a
    joint method what it combines.
    """
    words, family = card.get("taxonomy", {}), card.get("family", "")
    parts = {
        "pruning": [*words.get("granularity", [])[:1]],
        "quantization": ["+".join(words.get("target", [])), words.get("bits") or ""],
        "distillation": [*words.get("knowledge", [])[:1], words.get("scheme") or ""],
        "joint": [words.get("combination") or ""],
    }
    return (family, *parts.get(family, []))


# ---------------------------------------------------------------- recipes


def cell_recipe(cell: Planned, registry: Registry, seed: int = 0) -> Recipe:
    """Return the recipe of a cell, with one seed of its stages; the net that they begin with is the same for all.

    What a card lets come before a method is there for a method alone and for the first of two: the second finds what
    the first has left.
    """
    net = NETS[cell.net]
    data = {
        **net.given,
        "base": {**net.base, "seed": 0},
        "train": {**TRAIN, "optimizer": dict(net.optimizer)},
        "stages": cell_stages(cell, registry),
        "seed": seed,
    }
    return parse_recipe(data, cell.title)


def cell_stages(cell: Planned, registry: Registry) -> list[dict[str, Any]]:
    """Return the stages of a cell, as a recipe has them."""
    cases = [Case(key, "CNN", registry.card(key) or {}) for key in cell.methods]
    stages = [case.stages(registry, name=case.key, epochs=EPOCHS) for case in cases]
    if cell.kind == "alone":
        return stages[0]

    (*before, first), (*needed, second) = stages
    if cell.kind == "then":
        # Where the second one's card names the stage before it, as a teacher, the first one stands in its place.
        name = needed[-1].get("name") if needed else None
        return [*before, {**first, "name": name or first["name"]}, second]

    methods = {"name": "+".join(cell.methods), "methods": [*first["methods"], *second["methods"]]}
    return [*before, *(stage for stage in needed if stage not in before), {**merge(first, second), **methods}]


def in_one_line(recipe: Recipe) -> str:
    """Return the composition of a cell's recipe; how a stage trains, which one line can't say, is left out."""
    stages = [stage.model_copy(update={"train": {}}) for stage in flat(recipe.stages)]
    for stage in stages:
        stage.epochs = None if stage.epochs == EPOCHS else stage.epochs
    return format_stages(stages)


def facts_of(net: str, registry: Registry) -> NetFacts:
    """Return what is known of a net before anything is run."""
    recipe = parse_recipe({**NETS[net].given})
    task = registry.load("tasks", recipe.task.key)
    metric, outputs = task.metrics[0], task(**recipe.task.config).facts.outputs
    given_chance = NETS[net].chance
    chance = 100 / outputs if given_chance is None else given_chance
    model, given = recipe.model.model_dump(mode="json", exclude_defaults=True), recipe.task.model_dump(mode="json")
    return NetFacts(model, given, metric.name, metric.unit, metric.higher_is_better, chance)
