"""Weights that are powers of two, or zero, so that a product with one is a shift."""

from __future__ import annotations

import torch
from torch import Tensor

from condensery import Transform
from condensery.nets import QUANTIZE, Coding
from condensery_plugins.codecs.palette import Palette


def exponents(value: Tensor, edge: float) -> Tensor:
    """Return e for each entry, int32 of its shape, so that its size is between ``edge`` 2^e and ``edge`` 2^(e+1).

    What is exactly at the lower end belongs to it: nothing is rounded, as a logarithm would be. Zero gives -1.

    :param edge: 1/2 to 1.
    """
    mantissas, found = torch.frexp(value.abs())
    return found - (mantissas < edge).to(found.dtype)


def raised(powers: Tensor, low: int, high: int) -> Tensor:
    """Return 2^e for whole numbers e, exactly, float32 of their shape; what is beyond an end counts as the end.

    From a table: no processor's power function promises exact powers.

    :param low: smallest power; ``high`` the largest.
    """
    table = torch.tensor([2.0**power for power in range(low, high + 1)], device=powers.device)
    return table[powers.long().clamp(low, high) - low]


class Powers(Transform):
    """What holds a weight at powers of two; the base of all such."""

    rank = QUANTIZE

    def holds(self, final: Tensor) -> str | None:
        """Check that all values are powers of two, or zero."""
        mantissas = torch.frexp(final)[0].abs()
        wrong = int(((mantissas != 0.5) & (final != 0)).sum())
        return f"{wrong} values are no powers of two" if wrong else None

    def code(self, coding: Coding, final: Tensor) -> Coding:
        """Return a codebook of the powers that occur, zero first, and a code for each weight."""
        return Coding(Palette(final))
