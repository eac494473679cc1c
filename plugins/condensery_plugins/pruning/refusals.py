"""Shares that make no sense on a net, refused before anything trains: what takes nothing, what leaves nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from torch import Tensor

from condensery.errors import UsageError
from condensery.nets import Weight
from condensery.run import Stage

Goes = Callable[[int, float], int]
"""How many of some units go at a share."""


def rounded(units: int, share: float) -> int:
    """Return how many of some units go at a share: rounded, at most all but one."""
    return min(units - 1, round(share * units))


def refuse_nothing(
    stage: Stage,
    method: str,
    setting: str,
    value: float,
    sizes: Sequence[int],
    *,
    unit: str,
    scope: str = "local",
    goes: Goes = rounded,
) -> None:
    """Refuse a share that takes nothing out of any layer.

    In a dry run only, which meets the first two passes of a round: in a later one there may be too little left to take.

    :param value: of the setting.
    :param sizes: how many units each layer has.
    :param unit: what they are, in one word.
    :param scope: ``global`` takes the share of all layers' units together.
    :raises UsageError: naming method, setting and value, and the smallest share that takes one unit.
    """
    if not stage.dry:
        return
    spare = any(n > 1 for n in sizes)
    together = [sum(sizes)] if scope == "global" and spare else sizes

    def takes(share: float) -> bool:
        return any(goes(n, share) > 0 for n in together)

    if not spare:
        raise UsageError(f"{method}: {setting} {value:g} takes nothing: no layer has a {unit} to spare")
    if not takes(value):
        least = _least(takes, value)
        raise UsageError(
            f"{method}: {setting} {value:g} takes no {unit} away; the smallest {setting} that takes one is {least:g}"
        )


def _least(takes: Callable[[float], bool], low: float) -> float:
    """Return the smallest share that takes something, in three digits, rounded up.

    :param low: a share that doesn't.
    """
    high = 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if takes(middle) else (middle, high)
    unit = 10.0 ** (math.floor(math.log10(high)) - 2)
    steps = math.floor(high / unit)
    return next(s for s in (round(n * unit, 12) for n in range(steps, steps + 3)) if takes(s))


def refuse_empty(
    stage: Stage,
    asked: str,
    weights: Sequence[Weight],
    keep: Mapping[str, Tensor],
    *,
    by: Literal["count", "rank", "value"],
    hint: str = "ask for less",
) -> None:
    """Refuse what would leave nothing of a layer that has something now.

    Where a dry run's weights stand in for trained ones, only what no weights could bear is refused; the real stage
    comes here again.

    :param asked: method, setting and value: ``magnitude: sparsity 0.99``.
    :param weights: what is pruned; biases are no layer.
    :param keep: what stays of each, bool by name.
    :param by: what decides how much a layer loses: its size alone, its rank among all these weights, or their values.
    :param hint: what to do instead.
    :raises UsageError: naming the first such layer.
    """
    whole = [w for w in weights if "bias" not in w.tensor and bool(w.alive.any())]
    empty = next((w.path for w in whole if not bool(keep[w.name].any())), None)
    if empty is None:
        return
    guessed = stage.stands_in or (stage.dry and stage.step > 0)
    enough = sum(int(keep[w.name].sum()) for w in weights) >= len(whole)
    if guessed and (by == "value" or (by == "rank" and enough)):
        return
    raise UsageError(f"{asked} leaves nothing of layer {empty!r}; {hint}")
