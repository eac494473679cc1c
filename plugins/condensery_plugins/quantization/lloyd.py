"""k-means of numbers on a line, exact and fast: the numbers are sorted once, a cluster is a range of them."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

Start = Literal["linear", "density", "random"]


class Clusters(NamedTuple):
    """The clusters of some numbers.

    :param centers: ``(k,)`` of float64, rising.
    :param members: ``(n,)`` of int64: the center of each number, in the numbers' own order.
    :param inertia: sum of squared distances to the centers.
    :param rounds: rounds until nothing moved, or until there were no more.
    """

    centers: Tensor
    members: Tensor
    inertia: float
    rounds: int


def start_centers(values: Tensor, count: int, start: Start, seed: int = 0) -> Tensor:
    """Return the centers to begin with, rising.

    ``linear``: evenly spaced from the smallest to the largest value. ``density``: the values in the middle of
    ``count`` equally full parts. ``random``: values drawn without replacement (Forgy).

    :param values: flat, not empty.
    :param count: of the centers, at most as many as there are values.
    :returns: ``(count,)`` of float64.
    """
    rising = values.double().sort().values
    if start == "linear":
        # Blending the ends and not adding up steps: the last center is the largest value exactly.
        share = torch.linspace(0, 1, count, dtype=torch.float64, device=values.device)
        return rising[0] * (1 - share) + rising[-1] * share
    if start == "density":
        middle = (torch.arange(count, dtype=torch.float64) + 0.5) / count * len(rising)
        return rising[middle.long()]
    drawn = torch.randperm(len(rising), generator=torch.Generator().manual_seed(seed))[:count]
    return rising[drawn.sort().values]


def lloyd(values: Tensor, centers: Tensor, iterations: int) -> Clusters:
    """Move each center to the mean of the values nearest to it, until nothing moves.

    A value halfway between two centers belongs to the lower one. A center without values stays where it is; libraries
    often move it elsewhere.

    :param values: ``(n,)``.
    :param centers: rising, ``(k,)``.
    :param iterations: rounds at most.
    """
    rising, order = values.double().sort()
    sums = torch.cat([rising.new_zeros(1), rising.cumsum(0)])
    centers = centers.double().to(values.device)

    ends, rounds = _ends(rising, centers), 0
    for rounds in range(1, iterations + 1):  # noqa: B007  counted for the result
        sizes = ends.diff()
        totals = sums[ends[1:]] - sums[ends[:-1]]
        # A mean lies between its neighbours' borders, and so does a center that stays: they remain in rising order.
        centers = torch.where(sizes > 0, totals / sizes.clamp_min(1), centers)
        moved, ends = ends, _ends(rising, centers)
        if torch.equal(moved, ends):
            break

    members = torch.empty_like(order)
    members[order] = torch.repeat_interleave(torch.arange(len(centers), device=order.device), ends.diff())
    inertia = float((values.double() - centers[members]).square().sum()) if len(values) else 0.0
    return Clusters(centers, members, inertia, rounds)


def _ends(rising: Tensor, centers: Tensor) -> Tensor:
    """Return where each center's range of sorted values begins, and the end of the last: ``(k + 1,)``."""
    borders = (centers[1:] + centers[:-1]) / 2
    inner = torch.searchsorted(rising, borders, right=True)
    return torch.cat([inner.new_zeros(1), inner, inner.new_full((1,), len(rising))])
