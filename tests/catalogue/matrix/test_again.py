"""A random handful of stored cells is run again, and comes to the same."""

from __future__ import annotations

import random

import pytest

from condensery import Registry
from condensery_catalogue.matrix import Cell, stored_matrix
from condensery_catalogue.matrix.plan import Planned
from condensery_catalogue.matrix.playing import play

SEED, HANDFUL = 30, 5
QUICK = ("CNN", "LSTM", "detector", "segmenter")
"""Nets whose base trains in seconds."""
POINTS = 12.0
"""Of the main figure: the net before is another one on another processor, whose sums end in other bits."""
BYTES = 0.05
REGISTRY = Registry.open()


def handful() -> list[Cell]:
    """Return some cells, at least one that ran and one that was refused."""
    cells = [cell for cell in stored_matrix(REGISTRY).cells if cell.net in QUICK and cell.outcome != "fails"]
    drawn = random.Random(SEED)
    refused = drawn.sample([cell for cell in cells if not cell.ran], 2)
    return drawn.sample([cell for cell in cells if cell.ran], HANDFUL - 2) + refused


@pytest.mark.slow
@pytest.mark.parametrize("cell", handful(), ids=lambda cell: f"{cell.net}: {cell.line}")
def test_a_stored_cell_comes_to_the_same_again(cell: Cell) -> None:
    found = play(Planned(cell.net, cell.kind, cell.methods), REGISTRY)
    if not cell.ran:
        assert (found["outcome"], found["reason"]) == ("refused", cell.reason)
        return
    assert found["outcome"] == "ran"
    assert found["line"] == cell.line
    assert found["before"] == pytest.approx(cell.before, abs=POINTS / 3)
    assert found["quality"][0] == pytest.approx(cell.quality[0], abs=max(POINTS, 3 * (cell.deviation or 0.0)))
    assert found["bytes_before"] == cell.bytes_before
    assert found["bytes"] == pytest.approx(cell.bytes, rel=BYTES)
