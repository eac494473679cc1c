"""Each arm at its own best settings, chosen from one small grid on held-out training data, so that none is favoured.

A rate that was picked for the method makes its baseline look worse than it is, and one picked on the test split makes
both look better. Imports no torch.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from condensery.tasks import Metric


def combinations(grid: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Return each way to take one value for each path of a grid, in its order."""
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def choose(grid: Mapping[str, Sequence[Any]], metric: Metric, scores: Sequence[float | None]) -> dict[str, Any]:
    """Return as plain data which combinations of a grid were tried with which score, and the first of the best.

    :param metric: what was compared, on validation.
    :param scores: one for each combination, in their order; ``None`` for a run that diverged. Where all did, ``chosen``
        is ``None``.
    """
    tried: list[dict[str, Any]] = [
        {"values": v, "score": score} for v, score in zip(combinations(grid), scores, strict=True)
    ]
    found = [entry for entry in tried if entry["score"] is not None]
    best = max(found, key=lambda entry: entry["score"] if metric.higher_is_better else -entry["score"], default=None)
    return {"metric": metric.name, "tried": tried, "chosen": None if best is None else best["values"]}


def at_the_end(found: Mapping[str, Any]) -> bool:
    """Tell whether an arm chose the smallest or the largest number of those it tried, so that more might be better."""
    for path, value in (found["chosen"] or {}).items():
        tried = {entry["values"][path] for entry in found["tried"]}
        if len(tried) > 1 and isinstance(value, (int, float)) and value in (min(tried), max(tried)):
            return True
    return False
