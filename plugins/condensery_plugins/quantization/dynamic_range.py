"""A uniform grid on the range that a tensor has at each call, as in the released code of quantized BERTs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from condensery import Transform
from condensery.nets import QUANTIZE, Coding
from condensery_plugins.codecs.affine import Affine
from condensery_plugins.quantization.gradients import passing

LIMIT = 2.5
"""What is beyond, on either side, is cut off and gets no gradient."""


def limited(value: Tensor, x: Tensor) -> Tensor:
    """Return ``value`` exactly, with the gradient of ``x`` within the limits, without their ends, and 0 elsewhere.

    :param value: of the shape of ``x``.
    """
    return passing(value, x, x.detach().abs() < LIMIT)


class DynamicRange(Transform):
    """Rounds to evenly spaced levels between the ends of what comes, which are found anew at each call, also at test.

    What is beyond the limits is cut off first. The gradient passes within them.

    :param bits: width of a code.
    :param symmetric: levels -(2^(b-1) - 1) to 2^(b-1) - 1 times the largest size over the last; otherwise 2^b levels
        from the smallest to the largest number, of which none need be zero.
    :param by_row: a range for each index of dimension 0, else one for the whole tensor, the batch included.
    """

    key = "dynamic-range"
    rank = QUANTIZE
    bits: int

    def __init__(self, bits: int, symmetric: bool = False, by_row: bool = False) -> None:
        super().__init__()
        self.bits, self.symmetric, self.by_row = bits, symmetric, by_row

    def forward(self, x: Tensor) -> Tensor:
        """Return the levels, of the tensor's shape; a tensor without a range stays as it is."""
        with torch.no_grad():
            cut = x.clamp(-LIMIT, LIMIT)
            if self.symmetric:
                low, step = torch.zeros((), device=x.device), self._step(cut)
            else:
                low, high = torch.aminmax(cut)
                step = (high - low) / (2**self.bits - 1)
            levels = ((cut - low) / torch.where(step > 0, step, 1.0)).round() * step + low
        return limited(levels.to(x.dtype), x)

    def _step(self, x: Tensor) -> Tensor:
        """Return the step of a symmetric grid, broadcasting against a tensor."""
        sizes = x.abs()
        dims = list(range(1, x.dim())) if self.by_row else list(range(x.dim()))
        levels = float(2 ** (self.bits - 1) - 1)
        return sizes.amax(dims, keepdim=self.by_row) / levels

    def config(self) -> dict[str, Any]:
        """Return width and kind of range."""
        return {"bits": self.bits, "symmetric": self.symmetric, "by_row": self.by_row}

    def code(self, coding: Coding, final: Tensor) -> Coding:
        """Return codes packed in their range, and the steps; a grid without zero has none."""
        return Coding(Affine(self.bits, self._step(final.detach()))) if self.symmetric else coding
