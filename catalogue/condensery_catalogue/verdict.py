"""The rule by which a measured figure answers a claim."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

Verdict = Literal["reproduced", "partly", "not", "scaled-down"]
Direction = Literal["held", "not held", "within noise"]


class Summary(TypedDict):
    """Figures over the seeds; the sample standard deviation is ``None`` for one value."""

    mean: float
    std: float | None
    values: list[float]


def summary(values: Sequence[float]) -> Summary:
    """Return mean, sample standard deviation and the values."""
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "std": deviation, "values": list(values)}


def direction(method: Sequence[float], baseline: Sequence[float], *, higher_is_better: bool) -> Direction:
    """Tell whether the method beat its baseline by more than the pooled standard deviation.

    With one value each the deviation isn't known and counts as 0; say so where it is shown.
    """
    gain = statistics.fmean(method) - statistics.fmean(baseline)
    gain = gain if higher_is_better else -gain
    spreads = [statistics.variance(v) for v in (method, baseline) if len(v) > 1]
    noise = math.sqrt(statistics.fmean(spreads)) if spreads else 0.0
    if abs(gain) <= noise:
        return "within noise"
    return "held" if gain > 0 else "not held"


def verdict(
    *,
    scale: str,
    claim: Mapping[str, Any],
    measured: float,
    tolerance: float,
    went: Direction | None,
    bound: int | None = None,
    collapsed: bool = False,
) -> Verdict | None:
    """Return how a measured figure answers a claim, or ``None`` for a statement that no figure answers.

    A run at another scale than the paper's is always ``scaled-down``; a claim that wasn't read in its source, and a net
    that collapsed, never yield ``reproduced``.

    :param claim: the claimed figure: ``value`` and ``source``.
    :param tolerance: how far from the claim, in its unit, still counts as the same.
    :param went: direction against the baseline, where there is one.
    :param bound: 1 if the claim is the least that counts, -1 if it is the most; ``None`` if it is to be met.
    :param collapsed: whether a net of the arm, or of its baseline, did so in any seed.
    """
    if scale != "paper":
        return "scaled-down"
    if not isinstance(claim["value"], (int, float)):
        return None
    if went == "not held":
        return "not"

    missed = abs(measured - claim["value"]) if bound is None else bound * (claim["value"] - measured)
    if missed <= tolerance:
        sure = claim["source"] == "read" and went != "within noise" and not collapsed
        return "reproduced" if sure else "partly"
    return "partly" if went == "held" else "not"
