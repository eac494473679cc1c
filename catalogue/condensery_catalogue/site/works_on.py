"""A method's row of the matrix: on which nets it was run, alone and with others, and what went best with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from condensery_catalogue.matrix import OUTCOMES, Cell, Matrix


@dataclass(frozen=True)
class Row:
    """What a method came to on one net of the matrix.

    :param first: how many pairs in which it comes first had each outcome; ``second`` and ``beside`` likewise.
    :param best: the pair that works with the fewest bytes, if any does.
    """

    net: str
    alone: Cell
    first: Mapping[str, int]
    second: Mapping[str, int]
    beside: Mapping[str, int]
    best: Cell | None


def works_on(matrix: Matrix, key: str) -> list[Row]:
    """Return a row for each net on which a method has a cell."""
    return [_row(matrix, net, key) for net in matrix.nets if matrix.some(net, method=key)]


def _row(matrix: Matrix, net: str, key: str) -> Row:
    pairs = [cell for cell in matrix.some(net, method=key) if len(cell.methods) > 1]
    then = [cell for cell in pairs if cell.kind == "then"]
    working = [cell for cell in pairs if cell.outcome == "works" and cell.bytes is not None]
    return Row(
        net,
        matrix.cell(net, "alone", key),
        _counted(cell for cell in then if cell.methods[0] == key),
        _counted(cell for cell in then if cell.methods[1] == key),
        _counted(cell for cell in pairs if cell.kind == "with"),
        min(working, key=lambda cell: (cell.bytes, cell.line), default=None),
    )


def _counted(cells: Iterable[Cell]) -> dict[str, int]:
    """Return how many cells have each outcome, in the order of the outcomes."""
    counts = Counter(cell.outcome for cell in cells)
    return {outcome: counts[outcome] for outcome in OUTCOMES if counts[outcome]}
