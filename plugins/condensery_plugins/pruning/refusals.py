"""Refusals of settings that make no sense on a net: a share that takes nothing, and one that empties a layer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from torch import Tensor

from condensery import Stage, UsageError, Weight

Goes = Callable[[int, float], int]
"""Tells how many of a number of units go at a share: of 8 filters at 0.3, for instance, 2."""


def rounded(units: int, share: float) -> int:
    """Return how many of a number of units go at a share: rounded, at most all but one."""
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

    :param method: key of the method.
    :param setting: name of the share.
    :param value: of the share.
    :param sizes: how many units each layer has.
    :param unit: what they are, in one word.
    :param scope: ``global`` takes the share of all layers' units together.
    :param goes: how many of a layer's units go at a share.
    :raises UsageError: naming method, setting and value, and the smallest share that takes one unit.
    """
    if not stage.dry:
        return
    spare = any(n > 1 for n in sizes)
    together = [sum(sizes)] if scope == "global" and spare else sizes

    def takes(share: float) -> bool:
        return any(goes(n, share) > 0 for n in together)

    asked = f"{method}: {setting} {value:g}"
    if not spare:
        raise UsageError(f"{asked} takes nothing: no layer has a {unit} to spare")
    if not takes(value):
        least = _least(takes, value)
        raise UsageError(f"{asked} takes no {unit} away; the smallest {setting} that takes one is {least:g}")


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

    :param asked: method, setting and value, for the message: ``magnitude: sparsity 0.99``.
    :param weights: what is pruned; a layer whose bias alone is left counts as empty.
    :param keep: what stays of each weight, by its name: bool, of its shape.
    :param by: what decides how much a layer loses: its size alone (``count``), its rank among all these weights
        (``rank``), or the values of its own weights (``value``).
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
