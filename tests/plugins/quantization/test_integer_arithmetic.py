"""The numbers of an integer layer, by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from condensery import UsageError
from condensery_plugins.quantization.affine import INT32, Grid
from condensery_plugins.quantization.integer_arithmetic import Numbers, numbers_of, requantization


def grid(scale: float, zero: int, low: int = 0, high: int = 255) -> Grid:
    return Grid(torch.tensor(scale), torch.tensor(float(zero)), low, high)


@pytest.mark.parametrize(
    ("scale", "zero", "activation", "codes"),
    [
        (0.05, 10, None, (0, 255)),
        (0.05, 10, "relu", (10, 255)),
        (0.05, 10, "relu6", (10, 130)),  # 120 codes above that of 0, exactly: 0.05 isn't exact in float32
        (0.07, 10, "relu6", (10, 95)),  # 85.7 codes, of which the last whole one is still below 6
        (0.02, 10, "relu6", (10, 255)),  # 300 codes: the width ends before
    ],
)
def test_an_activation_cuts_codes(scale: float, zero: int, activation: str | None, codes: tuple[int, int]) -> None:
    found = requantization(torch.tensor(0.01, dtype=torch.float64), grid(scale, zero), activation)
    assert (int(found.low), int(found.high)) == codes


def layer(weight: list[list[float]], bias: list[float], inputs: Grid) -> Numbers:
    return numbers_of(torch.tensor(weight), torch.tensor(bias), grid(1.0, 2, -127, 127), inputs, None, None)


@pytest.mark.parametrize(
    ("weight", "bias", "zero", "reach"),
    [
        ([[3.0, -2.0]], [4.0], 3, 5 * 252 + 4),  # the inputs' upper end is farther from their zero
        ([[3.0, -2.0]], [-4.0], 200, 5 * 200 + 4),  # their lower end is; a bias counts by its size
        ([[1.0, 1.0], [3.0, 3.0]], [500.0, 7.0], 5, 6 * 250 + 7),  # the output with the largest sum
        ([[1.0, 1.0], [3.0, 3.0]], [1500.0, 7.0], 5, 2 * 250 + 1500),  # bias and products of the same output
    ],
)
def test_the_reach_of_accumulators(weight: list[list[float]], bias: list[float], zero: int, reach: int) -> None:
    """By hand; and no input makes a larger sum."""
    numbers = layer(weight, bias, grid(1.0, zero))
    assert int(numbers.reach) == reach

    def largest(row: Tensor, start: Tensor) -> int:
        centred = row.to(torch.int64) - int(numbers.weight_zero)
        ends = torch.tensor([0, 255]) - zero
        sums = [sum((w * ends).min() if low else (w * ends).max() for w in centred) + start for low in (True, False)]
        return max(abs(int(total)) for total in sums)

    assert max(map(largest, numbers.codes, numbers.bias)) <= reach


def test_a_reach_of_all_int32_is_fine_and_one_more_is_refused() -> None:
    """2^31 - 1 = 255 * 8,421,504 + 127."""
    products, rest = divmod(INT32, 255)
    rows, last = divmod(products, 125)
    weight = [125.0] * rows + [float(last)]
    assert int(layer([weight], [float(rest)], grid(1.0, 0)).reach) == INT32
    with pytest.raises(UsageError, match="may leave int32: use fewer bits"):
        layer([weight], [float(rest + 1)], grid(1.0, 0))
