"""The rule by which a measured figure answers a claim."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Literal

Verdict = Literal["reproduced", "partly", "not", "scaled-down"]
Direction = Literal["held", "not held", "within noise"]


def summary(values: Sequence[float]) -> dict[str, object]:
    """Return mean, sample standard deviation (``None`` for one value) and the values."""
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "std": deviation, "values": list(values)}


def direction(method: Sequence[float], baseline: Sequence[float], *, higher_is_better: bool) -> Direction:
    """Tell whether the method beat its baseline by more than the pooled standard deviation."""
    gain = statistics.fmean(method) - statistics.fmean(baseline)
    gain = gain if higher_is_better else -gain
    spreads = [statistics.variance(v) for v in (method, baseline) if len(v) > 1]
    noise = math.sqrt(statistics.fmean(spreads)) if spreads else 0.0
    if abs(gain) <= noise:
        return "within noise"
    return "held" if gain > 0 else "not held"


def verdict(
    *, scale: str, source: str, claimed: float, measured: float, tolerance: float, went: Direction | None
) -> Verdict:
    """Return how a measured figure answers a claim.

    A run at another scale than the paper's is always ``scaled-down``; a claim that was only recalled never yields
    ``reproduced``.

    :param tolerance: how far from the claim, in its unit, still counts as the same.
    :param went: direction against the baseline, where the claim has one.
    """
    if scale != "paper":
        return "scaled-down"
    if went == "not held":
        return "not"
    if abs(measured - claimed) <= tolerance:
        return "reproduced" if source == "read" and went != "within noise" else "partly"
    return "partly" if went == "held" else "not"
