"""A composition that is put together step by step: what it reads like, and whether it is legal, by core's own rules."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from condensery.contract import Facts, Registry
from condensery.errors import CondenseryError, NotApplicable, UsageError
from condensery.recipe import ModelSpec, Recipe, Unit, format_stages, parse, parse_recipe, unroll
from condensery_catalogue.showing import bare

OF_A_NET = frozenset({"float-weights", "dense-shape", "batch-norm", "attention", "classifier-logits"})
"""Words that hold on some net and task before the first stage; all others are left by methods."""


def refusal(stages: Sequence[Any], registry: Registry) -> str:
    """Return why a composition is refused on a net that each of its methods can take; empty where it is legal.

    The words are those of ``compose``, which asks the net as well; this builds the methods alone.

    :param stages: plain data, as :func:`condensery.recipe.parse` returns it.
    """
    try:
        recipe = parse_recipe({"model": "any", "task": "any", "stages": copy.deepcopy(list(stages))})
        return refused_by_words(recipe, registry)
    except CondenseryError as error:
        return str(error)


def refused_by_words(recipe: Recipe, registry: Registry) -> str:
    """Return why the words of its methods refuse a recipe, in the sentence that a run of it would give; empty if not.

    All holds at the start that may hold on some net: each of the methods can be run on the recipe's own.

    :raises CondenseryError: for a method that can't be built.
    """
    from condensery.run import methods_of  # imports torch

    facts = Facts(OF_A_NET)
    try:
        for unit in _units(recipe.stages):
            if isinstance(unit.spec.student, ModelSpec):
                facts = Facts(OF_A_NET)  # another net goes on from here
            # A stage that names no teacher gets the net at the start for one.
            facts.enter(unit.spec.name, methods_of(unit, registry), ["teacher"])
    except NotApplicable as error:
        return str(error)
    return ""


def _units(stages: Sequence[Any]) -> list[Unit]:
    """Return the stages as they come, those of rounds in each pass."""
    return list(unroll(stages, decide=lambda _, ask: ask(), layers=lambda: ["a layer"], holds=lambda _: False))


class Draft:
    """A composition in the making.

    :param cards: by key, with ``key``, ``method``: whether it is one, and ``runs``: whether it or its parts can be run.
    """

    def __init__(self, cards: Mapping[str, Mapping[str, Any]]) -> None:
        self.cards = cards
        self.steps: list[list[Any]] = []
        """The stages after each addition, for :meth:`undo`."""

    @property
    def stages(self) -> list[Any]:
        """The stages so far, as plain data."""
        return self.steps[-1] if self.steps else []

    @property
    def line(self) -> str:
        """The composition in one line; empty where there is none yet."""
        recipe = parse_recipe({"model": "any", "task": "any", "stages": copy.deepcopy(self.stages)})
        return format_stages(recipe.stages) if self.stages else ""

    @property
    def command(self) -> str:
        """What runs it in a shell; empty where there is nothing to run."""
        return f'condensery compose "{self.line}"' if self.stages else ""

    def then(self, key: str) -> None:
        """Add a method behind all others, in a stage of its own; a composition, in its own stages.

        :raises UsageError: for what can't be run, and for a composition whose stages have names that are taken.
        """
        card = self._card(key)
        self._add([*self.stages, *parse(card.get("composition") or bare(card))])

    def beside(self, key: str) -> None:
        """Add a method to the last stage, which it then shares.

        The stage keeps its own name and teacher.

        :raises UsageError: for what can't be run, or has several stages, or where the last stage is a round.
        """
        card = self._card(key)
        if not self.stages:
            self.then(key)
            return
        if not card["method"]:
            raise UsageError(f"{key} has stages of its own: add it behind the others")
        if "methods" not in self.stages[-1]:
            raise UsageError(f"{key} can't act in a round as a whole: add it behind")

        (part,), stage = parse(bare(card)), self.stages[-1]
        shared = {**part, **stage, "methods": [*stage["methods"], *part["methods"]]}
        self._add([*self.stages[:-1], shared])

    def undo(self) -> None:
        """Take back the last addition."""
        del self.steps[-1:]

    def _card(self, key: str) -> Mapping[str, Any]:
        card = self.cards[key]
        if not card["runs"]:
            raise UsageError(f"{key} has a card, but nothing that runs")
        return card

    def _add(self, stages: list[Any]) -> None:
        parse_recipe({"model": "any", "task": "any", "stages": copy.deepcopy(stages)})
        self.steps.append(stages)
