from __future__ import annotations

import pytest
import torch

from condensery_plugins.quantization.ranges import Range


def test_the_average_by_hand() -> None:
    """Decay 0.5: the first two batches count evenly, then each new one half. Highs 4, 8, 2: 4, 6, 4."""
    made = Range(8, 0.5)
    highs, lows = [], []
    for low, high in ((-1.0, 4.0), (-3.0, 8.0), (0.0, 2.0)):
        made.observe(torch.tensor([low, 0.5, high]))
        highs.append(float(made.high))
        lows.append(float(made.low))
    assert highs == [4, 6, 4]
    assert lows == [-1, -2, -1]
    assert int(made.batches) == 3


def test_the_first_batches_are_averaged_evenly() -> None:
    made = Range(8, 0.99)
    for high in (1.0, 2.0, 6.0):
        made.observe(torch.tensor([0.0, high]))
    assert float(made.high) == pytest.approx(3)
    for _ in range(100):
        made.observe(torch.tensor([0.0, 3.0]))
    made.observe(torch.tensor([0.0, 103.0]))
    assert float(made.high) == pytest.approx(3 + 0.01 * 100, abs=1e-4)


def test_the_grid_holds_zero() -> None:
    made = Range(2, 0.9)
    made.observe(torch.tensor([-0.9, 2.1]))
    assert made(torch.tensor([0.0, 0.2, -0.6])).tolist() == pytest.approx([0, 0, -1])


def test_taking_over() -> None:
    one, other = Range(8, 0.9), Range(8, 0.9)
    one.observe(torch.tensor([-1.0, 3.0]))
    other.take(one)
    assert torch.equal(other.grid().scale, one.grid().scale)
    one.observe(torch.tensor([-5.0, 9.0]))
    assert float(other.high) == 3
