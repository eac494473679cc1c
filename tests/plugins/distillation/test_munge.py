from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor

from condensery_plugins.distillation.munge import drawn_alone, munge, pool_of


def draw() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def flags(*nominal: bool) -> Tensor:
    return torch.tensor(nominal)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        # Rows 0 and 1 trade and trade back, then row 2 trades with its nearest, which is 1 by now.
        ([0.0, 0.1, 1.0], [0.0, 1.0, 0.1]),
        # Row 0 trades with 1; then row 1, which is 0 by now, with row 0; row 2 with 3, and row 3 with 2.
        ([0.0, 0.1, 0.8, 1.0], [0.0, 0.1, 0.8, 1.0]),
    ],
)
def test_trades_go_on_in_the_changed_copy_by_hand(rows: list[float], expected: list[float]) -> None:
    """All attributes are traded, and with a spread without end they are not moved."""
    made = munge(torch.tensor(rows)[:, None], flags(False), 1.0, 1e12, draw())
    assert made.flatten().tolist() == pytest.approx(expected)


def test_nominal_attributes_count_one_where_they_differ_by_hand() -> None:
    """Row 0 trades with row 2, of its class, though row 1's numbers are closer; rows 1 and 2 then trade twice."""
    data = torch.tensor([[3.0, 0.0], [3.2, 0.1], [3.0, 0.6]])
    made = munge(data, flags(True, False), 1.0, 1e12, draw())
    torch.testing.assert_close(made, torch.tensor([[3.0, 0.6], [3.2, 0.1], [3.0, 0.0]]))


def test_nominal_attributes_change_places_and_are_never_moved() -> None:
    data = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    made = torch.stack([munge(data, flags(True, False), 0.5, 1.0, torch.Generator().manual_seed(n)) for n in range(9)])
    assert set(made[:, :, 0].flatten().tolist()) == {0.0, 1.0}
    assert set(made[:, 0, 0].tolist()) == {0.0, 1.0}
    assert len(made[:, :, 1].flatten().unique()) > 4  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("spread", [2.0, 10.0])
def test_new_values_lie_around_the_others_with_the_papers_deviation(spread: float) -> None:
    """Rows 0 and 1 trade twice; row 0 ends around 0 with twice the variance of (1 / s)^2, and somewhat more."""
    data = torch.tensor([[0.0], [1.0]])
    made = [munge(data, flags(False), 1.0, spread, torch.Generator().manual_seed(n))[0, 0] for n in range(500)]
    moved = torch.stack(made)
    assert float(moved.mean()) == pytest.approx(0.0, abs=0.15)
    assert float(moved.std()) == pytest.approx(2**0.5 / spread, rel=0.3)


def test_nothing_is_traded_without_probability_and_the_data_stay() -> None:
    data = torch.rand(6, 3, generator=draw())
    kept = data.clone()
    assert torch.equal(munge(data, flags(False, False, False), 0.0, 10.0, draw()), data)
    assert not torch.equal(munge(data, flags(False, False, False), 0.5, 10.0, draw()), data)
    assert torch.equal(data, kept)


def test_attributes_drawn_alone_come_from_their_own_column() -> None:
    data = torch.stack([torch.arange(50.0), 100 + torch.arange(50.0)], 1)
    made = drawn_alone(data, draw())
    assert bool((made[:, 0] < 50).all())
    assert bool((made[:, 1] >= 100).all())
    assert not torch.equal(made[:, 0], made[:, 1] - 100)


@pytest.mark.parametrize("size", [1, 3, 7])
def test_a_pool_has_its_size_and_the_scale_of_the_data(size: int) -> None:
    """Three examples of shape (1, 2): passes that change nothing give them again and again, on their own scale."""
    data = torch.tensor([[[-4.0, 7.0]], [[6.0, 7.0]], [[1.0, 7.0]]])
    seen = []

    def make(rows: Tensor) -> Tensor:
        seen.append(rows)
        return rows

    made = pool_of(data, size, make, [])
    torch.testing.assert_close(made, data.repeat(3, 1, 1)[:size])
    assert len(seen) == -(-size // 3)
    assert seen[0][:, 0].tolist() == [0.0, 1.0, 0.5]
    kept: Any = functools.partial(pool_of, data, 3, make)
    assert kept([0])[:, 0, 0].tolist() == [-4.0, 6.0, 1.0]
    assert seen[-1][:, 0].tolist() == [-4.0, 6.0, 1.0]
