"""A size to reach: the one number of a composition that sets how much goes, found by a short search."""

from __future__ import annotations

import dataclasses
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from condensery.contract import Registry
from condensery.errors import CondenseryError, UnknownKey, UsageError, short
from condensery.recipe import MethodSpec, Recipe, flat
from condensery.run import Progress, Run

FIGURES = {"bytes": "bytes", "macs": "macs", "latency": "latency_ms"}
"""What can be aimed at, and what it is called in a report."""
FINEST = 0.005
"""Between two values of a setting that is no whole number."""


class Amount(NamedTuple):
    """The setting that says how much a method takes away.

    :param more: whether a larger value takes more.
    """

    method: MethodSpec
    name: str
    low: float
    high: float
    whole: bool
    more: bool


def check_target(target: object) -> tuple[str, float]:
    """Return which figure is aimed at, and how much of it there may be at most.

    :raises UsageError: for anything but one of :data:`FIGURES` with a number above 0.
    """
    if not isinstance(target, Mapping) or len(target) != 1:
        raise UsageError(f"target: give one figure and how much of it, such as {{'bytes': 0.1}}, not {short(target)}")
    ((asked, most),) = target.items()
    if asked not in FIGURES:
        raise UnknownKey("target", str(asked), FIGURES)
    if isinstance(most, bool) or not isinstance(most, (int, float)) or not most > 0:
        raise UsageError(f"target: {asked} must be a number above 0, got {short(most)}")
    return str(asked), most


def with_target(recipe: Recipe, asked: str, most: float, registry: Registry, show: Progress) -> Recipe:
    """Return a recipe whose one amount is the smallest that reaches a target, as far as no training changes it.

    :param asked: one of :data:`FIGURES`, and ``most`` how much of it there may be; see :func:`check_target`.
    :raises UsageError: if there is not just one amount, or none that reaches the target.
    :raises CondenseryError: what the run says of the composition if it refuses whatever the amount is.
    """
    recipe = recipe.model_copy(deep=True)
    amount = the_amount(recipe, registry)
    search = Search(recipe, amount, asked, most, registry, show)
    best = smallest(values(amount), search.reaches)
    if best not in search.left:
        raise search.unreached()
    amount.method.settings[amount.name] = best
    show.line(f"target: {amount.method.key} gets {amount.name} {best:g}")
    return recipe


@dataclasses.dataclass
class Search:
    """Tries values of an amount, and keeps what each leaves.

    :param left: by value, how much of the figure is left.
    :param refused: by value, what the run says of it.
    """

    recipe: Recipe
    amount: Amount
    asked: str
    most: float
    registry: Registry
    show: Progress
    dense: float = 0.0
    left: dict[float, float] = dataclasses.field(default_factory=dict)
    refused: dict[float, CondenseryError] = dataclasses.field(default_factory=dict)

    def reaches(self, value: float) -> bool:
        """Tell whether a value is enough.

        One that the run refuses took too much, and so is; unless one that takes more was let through: then it took too
        little.
        """
        figure, more = FIGURES[self.asked], 1 if self.amount.more else -1
        try:
            report = tried(self.recipe, self.amount, value, self.registry)
        except CondenseryError as error:
            self.refused[value] = error
            return not any(more * other > more * value for other in self.left)
        after, before = report["after"][figure], report["before"][figure]
        if after is None:
            raise UsageError(f"target: the {self.asked} of this net are not known")
        self.left[value], self.dense = after, before
        self.show.line(f"target: {self.amount.name} {value:g} gives {after:,} {figure} of {before:,}")
        return bool(after <= self.limit)

    @property
    def limit(self) -> float:
        """How much may be left."""
        return self.most * self.dense if self.most <= 1 else self.most

    def unreached(self) -> CondenseryError:
        """Return what to say of a target that no value reaches: how far the composition gets."""
        if not self.left:
            return next(iter(self.refused.values()))
        value = min(self.left, key=lambda value: (self.left[value], value))
        least, method = self.left[value], self.amount.method.key
        if least >= self.dense:
            why = f"{method} takes nothing off the {self.dense:,} of this net, whatever its {self.amount.name}"
        else:
            share = f"{least / self.dense:.2g} of the net's {self.dense:,}"
            why = f"the least is {least:,}, {share}, which {method} gives with {self.amount.name} {value:g}"
        return UsageError(f"target: {self.asked} {self.most:g} can't be reached: {why}")


def the_amount(recipe: Recipe, registry: Registry) -> Amount:
    """Return the one setting of a recipe that says how much goes and is left open.

    :raises UsageError: if there is none, or more than one.
    """
    found = list(_amounts(recipe, registry))
    if len(found) != 1:
        named = ", ".join(f"{one.method.key}'s {one.name}" for one in found) or "none of its methods has one"
        raise UsageError(f"target: the composition must leave open one number that sets how much goes; {named}")
    return found[0]


def _amounts(recipe: Recipe, registry: Registry) -> Iterator[Amount]:
    for stage in flat(recipe.stages):
        for method in stage.methods:
            card = registry.card(method.key) or {}
            for name, setting in card.get("hyperparameters", {}).items():
                if setting.get("amount") and name not in method.settings:
                    whole = setting["type"] == "int"
                    low = setting.get("ge", setting.get("gt", 0) + (1 if whole else FINEST))
                    high = setting.get("le", setting.get("lt", 1) - (1 if whole else FINEST))
                    yield Amount(method, name, low, high, whole, setting["amount"] == "more")


def values(amount: Amount) -> list[float]:
    """Return the values to choose among, from the one that takes least to the one that takes most."""
    step = 1 if amount.whole else FINEST
    count = math.floor((amount.high - amount.low) / step + 1e-9)
    found = [amount.low + step * number for number in range(count + 1)]
    rounded = [int(v) if amount.whole else round(v, 6) for v in found]
    return rounded if amount.more else rounded[::-1]


def smallest(ordered: list[float], enough: Callable[[float], bool]) -> float | None:
    """Return the first of some values that is enough, found by halving: all behind it are taken to be so too."""
    low, high = 0, len(ordered)
    while low < high:
        middle = (low + high) // 2
        if enough(ordered[middle]):
            high = middle
        else:
            low = middle + 1
    return ordered[low] if low < len(ordered) else None


def tried(recipe: Recipe, amount: Amount, value: float, registry: Registry) -> dict[str, Any]:
    """Return the report of a recipe with one value, a single step of training a stage."""
    amount.method.settings[amount.name] = value
    short = recipe.model_copy(deep=True)
    short.train = {**short.train, "epochs": 1, "max_steps": 1}
    for stage in flat(short.stages):
        stage.epochs = None
    with tempfile.TemporaryDirectory(prefix="condensery-") as folder:
        return Run(short, registry, out=Path(folder) / "try", device="cpu", budget="quick").execute()
