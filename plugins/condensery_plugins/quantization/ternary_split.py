"""How a neuron becomes ternary: how many of its largest weights stay, and where its sums are cut.

Alemdar, Leroy, Prost-Boucle, Petrot: "Ternary Neural Networks for Resource-Efficient AI Applications", IJCNN 2017, and
the authors' code. A weight never changes its sign: of the positive ones the k+ largest become 1, of the negative ones
the k- largest -1, the rest 0.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

ENOUGH = 0.95
"""A sectioned search that reaches this share of the best agreement there could be is not followed by a full one."""
ROUNDS = 20
"""How often all classes of the last layer are gone through, unless a round before brings nothing."""


class Cut(NamedTuple):
    """Where a neuron's sums are cut.

    :param score: share of the probability that falls where it belongs.
    :param low: sums below are -1; ``high``: sums above are 1.
    """

    score: float
    low: int
    high: int


class Split(NamedTuple):
    """A neuron of ternary weights.

    :param weights: -1, 0 and 1, ``(inputs,)``.
    :param positive: how many are 1; ``negative``: how many are -1.
    """

    weights: Tensor
    positive: int
    negative: int


class Sums:
    """A neuron's sums for each way to split its weights.

    :param weights: the real ones, ``(inputs,)``.
    :param inputs: ternary, ``(rows, inputs)``.
    """

    def __init__(self, weights: Tensor, inputs: Tensor) -> None:
        self.order = weights.argsort(descending=True, stable=True)
        self.most = int((weights > 0).sum()), int((weights < 0).sum())
        self.size = len(weights)
        self._parts = [self._running(inputs, self._chosen(side)) for side in (0, 1)]

    def _chosen(self, side: int) -> Tensor:
        """Return the inputs of positive weights, or of negative ones, those of the largest first."""
        return self.order[: self.most[0]] if side == 0 else self.order.flip(0)[: self.most[1]]

    @staticmethod
    def _running(inputs: Tensor, chosen: Tensor) -> Tensor:
        """Return sums of the first 0, 1, 2... chosen inputs, int64 ``(chosen + 1, rows)``."""
        running = inputs[:, chosen].T.long().cumsum(0)
        return torch.cat([running.new_zeros(1, len(inputs)), running])

    def of(self, positive: int, negative: int) -> Tensor:
        """Return the sums of one split, int64 ``(rows,)``."""
        return self._parts[0][positive] - self._parts[1][negative]

    def split(self, positive: int, negative: int) -> Split:
        """Return the ternary weights of one split."""
        weights = torch.zeros(self.size)
        weights[self._chosen(0)[:positive]] = 1.0
        weights[self._chosen(1)[:negative]] = -1.0
        return Split(weights, positive, negative)


def best_cut(sums: Tensor, chances: Tensor, size: int) -> Cut:
    """Return the thresholds by which most of a teacher's probability falls where it belongs.

    Where the histograms of the sums, weighted by the probabilities of -1, 0 and 1, cross but once, it is where they do.

    :param sums: int64 ``(rows,)``, from ``-size`` to ``size``.
    :param chances: of -1, 0 and 1, ``(rows, 3)``.
    """
    found = [torch.bincount(sums + size, chances[:, kind].double(), 2 * size + 1) for kind in range(3)]
    below = torch.nn.functional.pad(torch.stack(found).cumsum(1), (1, 0))  # at sum + size: what lies below the sum

    # Of each end of the zeros the best start: -1 below it, and the zeros from it on.
    start = (below[0] - below[1]).cummax(0)
    total = start.values + below[1] - below[2] + below[2, -1]
    end = int(total.argmax())
    return Cut(float(total[end]) / len(sums), int(start.indices[end]) - size, end - size - 1)


def reachable(chances: Tensor) -> float:
    """Return the best score that any rule could have: of each row the largest probability.

    :param chances: ``(rows, 3)``.
    """
    return float(chances.double().amax(1).mean())


def best_along(score: Callable[[int], float], size: int) -> int:
    """Return which of 0 to size - 1 has the best score, where scores rise to it and fall behind: by thirds."""
    low, high = 0, size
    while high - low > 3:
        third = (high - low) // 3
        left, right = low + third, high - 1 - third
        if score(left) > score(right):
            high = right
        else:
            low = left + 1
    return max(range(low, high), key=score)


def best_split(
    score: Callable[[int, int], float], most: tuple[int, int], wanted: float, widest: int
) -> tuple[int, int]:
    """Return how many positive and negative weights stay: by thirds, one within the other, then all around what is hit.

    :param score: of a split; a higher one is better.
    :param most: how many weights there are of each sign.
    :param wanted: a score below it makes a search of all splits follow,
    :param widest: if the neuron has so many weights at most.
    """
    known = functools.cache(score)

    @functools.cache
    def beside(positive: int) -> int:
        return best_along(lambda negative: known(positive, negative), most[1] + 1)

    positive = best_along(lambda count: known(count, beside(count)), most[0] + 1)
    hit = positive, beside(positive)
    around = []
    for center, limit in zip(hit, most, strict=True):
        half = (math.floor(2 * math.log(limit + 1)) + 1) // 2
        around.append(range(max(0, center - half), min(limit, center + half) + 1))
    best = max(((i, j) for i in around[0] for j in around[1]), key=lambda pair: known(*pair))

    if known(*best) < wanted and sum(most) <= widest:
        best = max(((i, j) for i in range(most[0] + 1) for j in range(most[1] + 1)), key=lambda pair: known(*pair))
    return best


def fit_neuron(weights: Tensor, inputs: Tensor, chances: Tensor, widest: int) -> tuple[Split, Cut]:
    """Return the ternary neuron that agrees best with a teacher.

    :param weights: the teacher's, ``(inputs,)``.
    :param inputs: what the student's own layers before make, -1, 0 and 1, ``(rows, inputs)``.
    :param chances: the teacher's probabilities of -1, 0 and 1, ``(rows, 3)``.
    :param widest: see :func:`best_split`.
    """
    sums = Sums(weights, inputs)
    found = best_split(
        lambda i, j: best_cut(sums.of(i, j), chances, sums.size).score, sums.most, ENOUGH * reachable(chances), widest
    )
    return sums.split(*found), best_cut(sums.of(*found), chances, sums.size)


def fit_classes(weights: Tensor, inputs: Tensor, labels: Tensor, widest: int) -> tuple[Tensor, Tensor]:
    """Return ternary weights ``(classes, inputs)`` and whole biases ``(classes,)`` of the last layer.

    Each class is fitted to its own labels first. Then one class after another gets the weights and the bias by which
    most rows have the right largest sum, as long as a round of all classes brings something.

    :param weights: the real ones, ``(classes, inputs)``.
    :param inputs: -1, 0 and 1, ``(rows, inputs)``.
    :param labels: ``(rows,)``.
    """
    sums = [Sums(row, inputs) for row in weights]
    splits, scores = [], []
    for number, one in enumerate(sums):
        own = (labels == number).double()
        chances = torch.stack([1 - own, torch.zeros_like(own), own], 1)
        split, cut = fit_neuron(weights[number], inputs, chances, widest)
        splits.append((split.positive, split.negative, -cut.high))
        scores.append(one.of(*splits[-1][:2]) - cut.high)

    table = torch.stack(scores, 1)
    right = int((table.argmax(1) == labels).sum())
    for _ in range(ROUNDS):
        before = right
        for number, one in enumerate(sums):
            found = best_split(
                lambda i, j, one=one, number=number: best_bias(one.of(i, j), table, labels, number)[0],  # type: ignore[misc]
                one.most,
                len(labels),
                0,
            )
            count, bias = best_bias(one.of(*found), table, labels, number)
            if count > right:
                right, splits[number] = count, (*found, bias)
                table[:, number] = one.of(*found) + bias
        if right == before:
            break

    ternary = torch.stack([one.split(*split[:2]).weights for one, split in zip(sums, splits, strict=True)])
    return ternary, torch.tensor([split[2] for split in splits], dtype=weights.dtype)


def best_bias(sums: Tensor, table: Tensor, labels: Tensor, number: int) -> tuple[int, int]:
    """Return how many rows are right at most when a class has some sums and a whole bias, and that bias.

    Of equal scores the class that comes first is taken, as by ``argmax``.

    :param sums: of the class, int64 ``(rows,)``.
    :param table: the scores of all classes, int64 ``(rows, classes)``; its own are not looked at.
    :param labels: ``(rows,)``.
    :param number: of the class.
    """
    others = table.clone()
    others[:, number] = torch.iinfo(torch.int64).min
    rival = others.argmax(1)
    needed = others.gather(1, rival[:, None])[:, 0] - sums + (rival < number)  # the least bias by which the class wins

    # A row of the class is won from there on; one that the rival has right is lost.
    own, theirs = labels == number, labels == rival
    least = int(needed.min())
    change = torch.bincount(needed - least, own.double() - theirs.double())
    counts = torch.cat([change.new_zeros(1), change.cumsum(0)]) + theirs.sum()
    best = int(counts.argmax())
    return int(counts[best]), least + best - 1
