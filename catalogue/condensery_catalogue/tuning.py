"""Each arm at its own best settings, chosen from one small grid on held-out training data, so that none is favoured.

A rate that was picked for the method makes its baseline look worse than it is, and one picked on the test split makes
both look better. Imports no torch.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from condensery.errors import UsageError
from condensery.tasks import Metric


def combinations(grid: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Return each way to take one value for each path of a grid, in its order."""
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def choose(
    arm: str, grid: Mapping[str, Sequence[Any]], metric: Metric, scores: Sequence[float | None]
) -> dict[str, Any]:
    """Return as plain data which combinations of a grid were tried with which score, and the first of the best.

    :param metric: what was compared, on validation.
    :param scores: one for each combination, in their order; ``None`` for a run that diverged.
    :raises UsageError: if every run diverged.
    """
    tried: list[dict[str, Any]] = [
        {"values": v, "score": score} for v, score in zip(combinations(grid), scores, strict=True)
    ]
    found = [entry for entry in tried if entry["score"] is not None]
    if not found:
        raise UsageError(f"{arm}: every setting of the grid diverged")
    best = max(found, key=lambda entry: entry["score"] if metric.higher_is_better else -entry["score"])
    return {"metric": metric.name, "tried": tried, "chosen": best["values"]}
