"""What the order of two methods does, from cells that were run both ways. Imports no torch."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from condensery_catalogue.matrix.cells import Cell, Matrix

NO_DIFFERENCE = "no difference"


@dataclasses.dataclass(frozen=True)
class Order:
    """Two methods on one net, run one after the other both ways.

    :param cell: the order that came out better, by however little; ``back``: the other one.
    :param better: by how much, in the unit of the net's main figure.
    """

    cell: Cell
    back: Cell
    better: float

    @property
    def margin(self) -> float:
        """What the difference has to exceed: the deviations of both together."""
        return (self.cell.deviation or 0.0) + (self.back.deviation or 0.0)

    @property
    def counts(self) -> bool:
        """Whether the order makes a difference: more than both deviations."""
        return self.better > self.margin

    @property
    def first(self) -> str:
        """The method that stands first in the better order."""
        return self.cell.methods[0]


def orders(matrix: Matrix) -> list[Order]:
    """Return all pairs that ran both ways, those with the largest difference over its margin first."""
    found = []
    for cell in matrix.some(kind="then"):
        back = matrix.cell(cell.net, "then", *cell.methods[::-1])
        if not (cell.ran and back.ran):
            continue
        sign = 1 if matrix.nets[cell.net].higher else -1
        gain = sign * ((cell.after or 0.0) - (back.after or 0.0))
        if gain > 0 or (gain == 0 and cell.methods < back.methods):
            found.append(Order(cell, back, round(gain, 4)))
    return sorted(found, key=lambda order: (order.margin - order.better, order.cell.net, order.cell.methods))


def surprises(matrix: Matrix) -> list[Order]:
    """Return the pairs of which the order makes a difference."""
    return [order for order in orders(matrix) if order.counts]


def one_way(matrix: Matrix) -> list[Cell]:
    """Return the cells that ran where the other order is refused; its reason is that cell's."""
    ran = [cell for cell in matrix.some(kind="then") if cell.ran]
    return [cell for cell in ran if matrix.cell(cell.net, "then", *cell.methods[::-1]).outcome == "refused"]


# ---------------------------------------------------------------- which step is the weaker one


def costs_less(matrix: Matrix, one: Cell, other: Cell) -> bool | None:
    """Tell which of two methods alone costs less of the main figure; ``None`` within the deviations of both."""
    sign = 1 if matrix.nets[one.net].higher else -1
    gap = sign * ((one.after or 0.0) - (other.after or 0.0))
    margin = (one.deviation or 0.0) + (other.deviation or 0.0)
    return None if abs(gap) <= margin else gap > 0


def saves_less(matrix: Matrix, one: Cell, other: Cell) -> bool | None:
    """Tell which of two methods alone leaves the larger file; ``None`` where they differ by less than a tenth."""
    mine, theirs = one.bytes or 0, other.bytes or 0
    return None if abs(mine - theirs) < 0.1 * max(mine, theirs) else mine > theirs


Weaker = Callable[[Matrix, Cell, Cell], "bool | None"]


def weaker_first(matrix: Matrix, some: Iterable[Order], weaker: Weaker) -> Counter[str]:
    """Count among pairs whose order makes a difference how often the better order has the weaker step first.

    :returns: ``holds``, ``fails``, and ``neither``: of the two none is the weaker one.
    """
    words = {True: "holds", False: "fails", None: "neither"}
    counted: Counter[str] = Counter()
    for order in some:
        alone = [matrix.cell(order.cell.net, "alone", method) for method in order.cell.methods]
        counted[words[weaker(matrix, *alone)]] += order.counts
    return counted


def which_first(some: Sequence[Order], firsts: Iterable[str], seconds: Iterable[str]) -> Counter[str]:
    """Count which of two groups of methods stands first in the better order.

    :returns: ``first``, ``second``, and ``no difference``.
    """
    wanted = {frozenset(pair): pair for pair in itertools.product(firsts, seconds)}
    counted: Counter[str] = Counter()
    for order in some:
        pair = wanted.get(frozenset(order.cell.methods))
        if pair is None:
            continue
        word = "first" if order.first == pair[0] else "second"
        counted[word if order.counts else NO_DIFFERENCE] += 1
    return counted
