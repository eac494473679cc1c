"""Each arm at its own best settings, chosen from one small grid on held-out training data, so that none is favoured.

A rate that was picked for the method makes its baseline look worse than it is, and one picked on the test split makes
both look better. Imports no torch.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from condensery.errors import NonFiniteLoss, UsageError
from condensery.recipe import Recipe
from condensery.tasks import Metric

Play = Callable[[Recipe, int], Mapping[str, Any]]
"""``play(recipe, number)``: run the recipe that is number so many of the grid, and return its report."""


def combinations(grid: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Return each way to take one value for each path of a grid, in its order."""
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def tune(
    grid: Mapping[str, Sequence[Any]], recipe_of: Callable[..., Recipe], metric: Metric, play: Play
) -> dict[str, Any]:
    """Try every combination of a grid; return as plain data what was tried with its score, and what was chosen.

    :param recipe_of: returns the recipe with some values changed, which holds out a part of its training data.
    :param metric: what is compared, on validation.
    :raises UsageError: if every run diverged.
    """
    tried: list[dict[str, Any]] = []
    for number, values in enumerate(combinations(grid)):
        recipe = recipe_of(values)
        try:
            score = play(recipe, number)["validation"][metric.name]
        except NonFiniteLoss:
            score = None
        tried.append({"values": values, "score": score})

    found = [entry for entry in tried if entry["score"] is not None]
    if not found:
        raise UsageError(f"{recipe.name}: every setting of the grid diverged")
    best = max(found, key=lambda entry: entry["score"] if metric.higher_is_better else -entry["score"])
    return {"metric": metric.name, "tried": tried, "chosen": best["values"]}
