from __future__ import annotations

import numpy as np
import pytest
import torch

from condensery_plugins.pruning.inverse_hessian import InverseHessian, Surgery

CPU = torch.device("cpu")


def inverse_of(rows: torch.Tensor, alpha: float, sizes: list[int] | None = None) -> InverseHessian:
    made = InverseHessian(sizes or [rows.shape[1]], alpha, len(rows), CPU)
    for row in rows:
        made.add(row)
    return made


def rows_of(examples: int, size: int) -> torch.Tensor:
    return torch.randn(examples, size, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def test_the_recursion_by_hand() -> None:
    """One example, x = (1, 2), alpha = 1: I - x x' / (1 + 5)."""
    made = inverse_of(torch.tensor([[1.0, 2.0]]), alpha=1.0)
    assert made.values[0].flatten().tolist() == pytest.approx([5 / 6, -1 / 3, -1 / 3, 1 / 3])


def test_the_recursion_inverts_the_mean_of_outer_products() -> None:
    rows = rows_of(20, 6)
    hessian = rows.T @ rows / 20 + 1e-4 * torch.eye(6, dtype=torch.float64)
    np.testing.assert_allclose(inverse_of(rows, 1e-4).values[0].numpy(), np.linalg.inv(hessian.numpy()), rtol=1e-8)


def test_blocks_are_inverted_each_by_itself() -> None:
    """Five parameters in blocks of two, one and two: the second is filled up and its filling stays by itself."""
    rows = rows_of(20, 5)
    made = inverse_of(rows, 1e-3, sizes=[2, 1, 2])
    assert made.values.shape == (3, 2, 2)
    for number, part in enumerate((rows[:, :2], rows[:, 2:3], rows[:, 3:])):
        hessian = part.T @ part / 20 + 1e-3 * torch.eye(part.shape[1], dtype=torch.float64)
        size = part.shape[1]
        np.testing.assert_allclose(made.values[number, :size, :size], np.linalg.inv(hessian.numpy()), rtol=1e-8)
    assert made.values[1, 0, 1] == made.values[1, 1, 0] == 0


def test_numbers_come_back_from_their_blocks_in_order() -> None:
    """Of 3, 1, -5, 4 and 2 in blocks of two, one and two, with H = alpha I, the 1 goes first and the 2 second."""
    made = InverseHessian([2, 1, 2], 1.0, 1, CPU)
    numbers = torch.tensor([3.0, 1.0, -5.0, 4.0, 2.0])
    assert made.blocks(numbers).tolist() == [[3.0, 1.0], [-5.0, 0.0], [4.0, 2.0]]
    deleting = Surgery(made, numbers, torch.ones(5, dtype=torch.bool))
    assert deleting.step()
    assert deleting.step()
    values, alive = deleting.flat()
    assert values.tolist() == [3.0, 0.0, -5.0, 4.0, 0.0]
    assert alive.tolist() == [True, False, True, True, False]


def surgery(hessian: list[list[float]], weights: list[float]) -> Surgery:
    made = InverseHessian([len(weights)], 1.0, 1, CPU)
    made.values[0] = torch.linalg.inv(torch.tensor(hessian, dtype=torch.float64))
    return Surgery(made, torch.tensor(weights, dtype=torch.float64), torch.ones(len(weights), dtype=torch.bool))


def test_two_weights_by_hand() -> None:
    """H = [[2, 1], [1, 1]], so H^-1 = [[1, -1], [-1, 2]]. At w = (1, 1.2) the saliencies are 1/2 and 0.36.

    The second goes; the first moves by -1.2 / 2 * -1 = 0.6.
    """
    made = surgery([[2.0, 1.0], [1.0, 1.0]], [1.0, 1.2])
    assert made.step()
    values, alive = made.flat()
    assert values.tolist() == pytest.approx([1.6, 0.0])
    assert alive.tolist() == [True, False]
    assert made.increase == pytest.approx(0.36)


def test_the_larger_weight_may_go_first() -> None:
    """H = diag(1, 100): of 2 and 0.5 the saliencies are 2 and 12.5, where size says the opposite."""
    made = surgery([[1.0, 0.0], [0.0, 100.0]], [2.0, 0.5])
    assert made.step()
    assert made.flat()[0].tolist() == [0.0, 0.5]


def test_a_quadratic_is_solved_exactly_after_several_deletions() -> None:
    """Half the mean squared error of a linear fit: the rest solves the least squares problem without the deleted."""
    x = rows_of(30, 6).numpy()
    target = x @ np.array([0.3, -2.0, 0.1, 1.0, -0.5, 3.0]) + 0.2 * np.sin(np.arange(30.0))
    best = np.linalg.lstsq(x, target, rcond=None)[0]

    def loss(w: np.ndarray) -> float:
        return float(((x @ w - target) ** 2).mean() / 2)

    made = Surgery(inverse_of(torch.from_numpy(x), 1e-10), torch.from_numpy(best), torch.ones(6, dtype=torch.bool))
    before = loss(best)
    for count in range(1, 5):
        assert made.step()
        values, alive = (t.numpy() for t in made.flat())
        assert int(alive.sum()) == 6 - count
        assert (values[~alive] == 0).all()
        expected = np.linalg.lstsq(x[:, alive], target, rcond=None)[0]
        np.testing.assert_allclose(values[alive], expected, rtol=1e-6)
        assert loss(values) - before == pytest.approx(made.increase, rel=1e-6)


def test_the_least_costly_goes_first() -> None:
    """Each single deletion tried by least squares: the one chosen is the cheapest."""
    x = rows_of(30, 5).numpy() * np.array([1.0, 0.1, 2.0, 0.5, 1.0])
    best = np.array([0.4, 3.0, 0.2, -1.0, 0.6])
    costs = []
    for left_out in range(5):
        rest = np.delete(x, left_out, 1)
        fitted = rest @ np.linalg.lstsq(rest, x @ best, rcond=None)[0]
        costs.append(((fitted - x @ best) ** 2).mean() / 2)
    made = Surgery(inverse_of(torch.from_numpy(x), 1e-10), torch.from_numpy(best), torch.ones(5, dtype=torch.bool))
    assert made.step()
    assert made.flat()[1].tolist().index(False) == int(np.argmin(costs))
    assert made.increase == pytest.approx(min(costs), rel=1e-6)


def test_what_has_gone_never_moves_and_a_limit_stops() -> None:
    x = rows_of(30, 4)
    x[:, 1] = 0  # a mask holds it: its rows are zero
    alive = torch.tensor([True, False, True, True])
    made = Surgery(inverse_of(x, 1e-6), torch.tensor([1.0, 0.0, 2.0, 3.0]), alive)
    assert not made.step(limit=1e-9)
    assert made.flat()[0].tolist() == [1.0, 0.0, 2.0, 3.0]
    while made.step():
        assert made.flat()[0][1] == 0
    assert not made.flat()[1].any()
    assert not made.step()
