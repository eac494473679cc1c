"""Affine integers: real = scale * (code - zero), their fake quantization, and requantization by whole numbers alone."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from condensery_plugins.quantization.gradients import Estimator, estimated

INT32 = 2**31 - 1
SMALLEST = 1e-20
"""A step under this one comes from a range without values; 1 / (number of codes) stands in for it."""


class Grid(NamedTuple):
    """The reals that codes stand for.

    :param scale: of one code, positive; shape ``()``, or one that broadcasts against the reals.
    :param zero: the code of real 0, whole; of the shape of ``scale``.
    :param low: smallest code.
    :param high: largest code.
    """

    scale: Tensor
    zero: Tensor
    low: int
    high: int

    def codes(self, x: Tensor) -> Tensor:
        """Return the codes of some reals of any shape, as whole floats; halves go to the even neighbour."""
        return x.to(self.scale.dtype).div(self.scale).round_().add_(self.zero).clamp_(self.low, self.high)

    def values(self, codes: Tensor) -> Tensor:
        """Return the reals of some codes, of their shape."""
        return (codes - self.zero) * self.scale


def nudged_grid(low: Tensor, high: Tensor, first: int, last: int) -> Grid:
    """Return the grid of codes ``first`` to ``last`` for a range, moved so that 0 is exactly on it.

    A range that excludes 0 is expanded to it.

    :param low: end of the range, shape ``()``; or of several ranges, each by itself.
    :param high: its other end, of the same shape.
    :param first: smallest code.
    :param last: largest code.
    """
    low, high = low.clamp_max(0), high.clamp_min(0)
    scale = (high - low) / (last - first)
    scale = torch.where(scale > SMALLEST, scale, 1 / (last - first))
    zero = (first - low / scale).round().clamp(first, last)
    return Grid(scale, zero, first, last)


def signed_ends(bits: int) -> tuple[int, int]:
    """Return the smallest and largest code of a weight: the most negative one (-128 of 8 bits) is never used."""
    return -(2 ** (bits - 1)) + 1, 2 ** (bits - 1) - 1


def fake_quantize(x: Tensor, grid: Grid, estimator: Estimator = "clip") -> Tensor:
    """Return the reals nearest to ``x`` on a grid; gradient 1 within the grid's range, ends included, 0 outside.

    :param x: of any shape.
    :param estimator: ``identity``: gradient 1 outside the range too.
    """
    x = x.to(grid.scale.dtype)  # under autocast, bfloat16 would round once more
    with torch.no_grad():
        value = grid.values(grid.codes(x))
        low, high = ((end - grid.zero) * grid.scale for end in (grid.low, grid.high))
    return estimated(value, x, estimator, low, high)


def quantize_multiplier(factor: Tensor) -> tuple[Tensor, Tensor]:
    """Write a factor as ``2^-shift * multiplier / 2^31`` with the multiplier in ``[2^30, 2^31)``.

    :param factor: positive, float64, shape ``()``.
    :returns: multiplier and shift, int32, shape ``()``. A factor so small that it takes every int32 to 0 gives the
        multiplier 0.
    """
    mantissa, exponent = torch.frexp(factor)
    multiplier = (mantissa * 2**31).round().to(torch.int64)
    carry = multiplier == 2**31  # the mantissa, below 1, has been rounded to 1
    multiplier = torch.where(carry, multiplier >> 1, multiplier)

    shift = -(exponent.to(torch.int64) + carry)
    multiplier = torch.where(shift > 31, 0, multiplier)
    return multiplier.to(torch.int32), shift.clamp(-31, 31).to(torch.int32)


def multiply(accumulators: Tensor, multiplier: Tensor, shift: Tensor) -> Tensor:
    """Return accumulators times ``2^-shift * multiplier / 2^31``, in integers.

    First a rounding high multiply, whose ties go up, then a rounding right shift, whose ties go away from zero.

    :param accumulators: int32, of any shape.
    :param multiplier: int32, shape ``()``.
    :param shift: int32, shape ``()``; negative for a factor above 1.
    """
    # For a factor above 1: what leaves int32 is beyond any output code anyway. No branch, so that it can be exported.
    wide = accumulators.to(torch.int64) << (-shift).clamp_min(0)
    wide = wide.clamp_(-INT32 - 1, INT32)
    product = (wide * multiplier.to(torch.int64)).add_(2**30)
    high = product.bitwise_right_shift_(31).to(torch.int32)

    right = shift.clamp_min(0)
    half = (1 << right) >> 1
    down = (high >> 31) * (right > 0)  # -1 where negative, so that those ties fall
    return high.add_(down).add_(half).bitwise_right_shift_(right)
