from __future__ import annotations

import pytest
import torch
from tests.plugins.quantization.helpers import gemmlowp
from torch import Tensor

from condensery_plugins.quantization.affine import (
    fake_quantize,
    multiply,
    nudged_grid,
    quantize_multiplier,
    signed_ends,
)


def grid_of(low: float, high: float, first: int = 0, last: int = 255) -> list[float]:
    made = nudged_grid(torch.tensor(low, dtype=torch.float64), torch.tensor(high, dtype=torch.float64), first, last)
    return [float(made.scale), float(made.zero)]


def number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def test_the_nudge_by_hand() -> None:
    """[-1, 2] in four codes: step 1, -a/s = 1 exactly. [-0.9, 2.1]: step 1, -a/s = 0.9, so 0 moves to code 1."""
    assert grid_of(-1, 2, 0, 3) == [1, 1]
    assert grid_of(-0.9, 2.1, 0, 3) == [pytest.approx(1), 1]
    made = nudged_grid(number(-0.9), number(2.1), 0, 3)
    assert made.values(made.codes(torch.tensor([-5.0, 0.0, 0.4, 2.1, 9.0]).double())).tolist() == pytest.approx(
        [-1, 0, 0, 2, 2]
    )


def test_a_range_that_excludes_zero_is_expanded() -> None:
    """[1, 5.1] becomes [0, 5.1], step 0.02 and zero 0; [-5.1, -1] becomes [-5.1, 0], zero 255."""
    assert grid_of(1, 5.1) == [pytest.approx(0.02), 0]
    assert grid_of(-5.1, -1) == [pytest.approx(0.02), 255]


def test_an_empty_range_gives_a_usable_step() -> None:
    assert grid_of(0, 0) == [1 / 255, 0]
    assert grid_of(0, 0, -127, 127) == [1 / 254, -127]


@pytest.mark.parametrize(("bits", "ends"), [(8, (-127, 127)), (4, (-7, 7)), (2, (-1, 1))])
def test_the_most_negative_code_is_never_used(bits: int, ends: tuple[int, int]) -> None:
    assert signed_ends(bits) == ends
    for low, high in ((-3.0, 1.0), (-1.0, 1.0), (0.5, 3.0), (-3.1, -1.0)):
        values = torch.linspace(low, high, 997).double()
        codes = nudged_grid(values.min(), values.max(), *ends).codes(values)
        assert int(codes.min()) >= ends[0]
        assert int(codes.max()) <= ends[1]
        assert len(codes.unique()) > 0.6 * 2**bits - 2  # type: ignore[no-untyped-call]


def test_gradients_are_one_inside_and_zero_outside() -> None:
    """Range [-1, 2], step 1: both ends count as inside."""
    x = torch.tensor([-1.01, -1.0, 0.3, 2.0, 2.01], dtype=torch.float64, requires_grad=True)
    out = fake_quantize(x, nudged_grid(number(-1), number(2), 0, 3))
    out.sum().backward()  # type: ignore[no-untyped-call]
    assert out.tolist() == [-1, -1, 0, 2, 2]
    assert x.grad is not None
    assert x.grad.tolist() == [0, 1, 1, 1, 0]


def test_the_multiplier_by_hand() -> None:
    """0.3 = 2^-1 * 0.6, and 0.6 * 2^31 = 1288490188.8; 0.5 is the least mantissa; 3 = 2^2 * 0.75 is shifted left."""
    for factor, multiplier, shift in ((0.3, 1288490189, 1), (0.5, 2**30, 0), (3.0, 3 * 2**29, -2), (0.25, 2**30, 1)):
        found = quantize_multiplier(number(factor))
        assert (int(found[0]), int(found[1])) == (multiplier, shift)
    nearly_one = quantize_multiplier(number(1 - 2**-40))  # the mantissa rounds to 1
    assert (int(nearly_one[0]), int(nearly_one[1])) == (2**30, -1)
    assert int(quantize_multiplier(number(2.0**-40))[0]) == 0


def test_both_roundings_by_hand() -> None:
    """Factor 0.75 * 2^-1: 3 -> high(2.25) = 2 -> 1.  Ties: the product's go up, the shift's away from zero."""
    times = torch.tensor([3, 2, -2, 6, -6, 4, -4], dtype=torch.int32)
    # 0.75 x: 2.25, 1.5, -1.5, 4.5, -4.5, 3, -3 -> 2, 2, -1, 5, -4, 3, -3 -> halves: 1, 1, -0.5, 2.5, -2, 1.5, -1.5
    multiplier, shift = quantize_multiplier(number(0.375))
    assert multiply(times, multiplier, shift).tolist() == [1, 1, -1, 3, -2, 2, -2]


def test_many_products_against_whole_numbers_of_python() -> None:
    torch.manual_seed(0)
    ends = torch.tensor([0, 1, -1, 2**31 - 1, -(2**31)])
    values = torch.cat([ends, torch.randint(-(2**31), 2**31, (200,)), torch.randint(-999, 999, (200,))])
    for factor in (0.9999, 0.5, 0.37, 0.0123, 3e-5, 2.0**-9):
        multiplier, shift = quantize_multiplier(number(factor))
        found = multiply(values.to(torch.int32), multiplier, shift).tolist()
        assert found == [gemmlowp(int(v), int(multiplier), int(shift)) for v in values]
        assert max(abs(f - float(v) * factor) for f, v in zip(found, values, strict=True)) <= 1.5


def test_factors_above_one_saturate() -> None:
    multiplier, shift = quantize_multiplier(number(3.0))
    found = multiply(torch.tensor([5, -7, 2**30, -(2**30)], dtype=torch.int32), multiplier, shift)
    assert found[:2].tolist() == [15, -21]
    assert int(found[2]) > 2**29
    assert int(found[3]) < -(2**29)
