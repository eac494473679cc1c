"""Numbers of 8 bits that are no whole numbers: a sign, a power of ten, and a fraction of what bits are left."""

from __future__ import annotations

import functools
from typing import Any, Literal

import torch
from torch import Tensor

from condensery import Transform, straight_through
from condensery.nets import QUANTIZE, Coding
from condensery_plugins.codecs.palette import Palette

Kind = Literal["tree", "linear", "mantissa", "static-tree"]
DECADES = 8
"""Powers of ten that three bits tell apart."""
OFFSET = 1
"""The paper's power of ten of the largest decade, for numbers of about unit size: none of them is cut off at 1."""


@functools.cache
def table(kind: Kind, offset: int = OFFSET) -> Tensor:
    """Return the numbers that the codes of a type stand for, ascending, with 0 among them; float32, 256 at most.

    ``tree``: as many bits as there are zeros behind the sign say the decade, and the rest part it evenly: 64 numbers
    of each sign between 0.1 and 1, 32 in the next lower decade, at last one; and 1 itself. ``linear``: 127 even steps
    of each sign up to 1. ``mantissa``: tenths 0 to 15, times 8 powers of ten. ``static-tree``: 16 even parts of each of
    8 decades; the smallest number of each sign gives its code to 0.

    Dettmers: "8-Bit Approximations for Parallelism in Deep Learning", ICLR 2016.

    :param offset: power of ten of the largest decade of ``mantissa`` and ``static-tree``, which aren't scaled: with 1
        they reach up to 15 and 9.7. The paper has 2 for numbers from N(0, 10^2).
    """
    if kind == "linear":
        return (torch.arange(-127, 128, dtype=torch.float64) / 127).float()

    if kind == "tree":
        parts = [_middles(2**place) * 10.0 ** (place - 6) for place in range(7)]
        extra = [0.0, 1.0]
    else:
        fractions = torch.arange(16, dtype=torch.float64) / 10 if kind == "mantissa" else _middles(16)
        parts = [fractions * 10.0 ** (offset - place) for place in range(DECADES)]
        extra = [0.0]
    positive = torch.cat(parts)
    if kind == "static-tree":
        positive = positive[positive > positive.min()]
    numbers = torch.cat([positive, -positive, torch.tensor(extra, dtype=torch.float64)]).float()
    ascending: Tensor = torch.unique(numbers)
    return ascending


def _middles(count: int) -> Tensor:
    """Return the middles of even parts of 0.1 to 1, ``(count,)`` of float64."""
    edges = torch.linspace(0.1, 1, count + 1, dtype=torch.float64)
    return (edges[1:] + edges[:-1]) / 2


@functools.cache
def _halfway(kind: Kind, offset: int) -> Tensor:
    numbers = table(kind, offset)
    return (numbers[1:] + numbers[:-1]) / 2


def encoded(x: Tensor, kind: Kind, offset: int = OFFSET) -> tuple[Tensor, Tensor]:
    """Return the places of the nearest numbers in the table, uint8 of the shape of ``x``, and each row's scale.

    The types that are scaled take the largest absolute value of a row for 1; a row of zeros has the scale 0.

    :param x: ``(rows, numbers)``.
    :returns: codes, and float32 ``(rows, 1)``.
    """
    x = x.detach().float()
    if kind in ("tree", "linear"):
        scale = x.abs().amax(1, keepdim=True) if x.shape[1] else x.new_zeros(len(x), 1)
    else:
        # No code says that a number isn't finite, so the scale does; the largest number does it for the others.
        scale = torch.where(x.isfinite().all(1, keepdim=True), 1.0, torch.nan).to(x)
    shares = x / torch.where(scale > 0, scale, 1)
    return torch.bucketize(shares, _halfway(kind, offset).to(x.device), out_int32=True).to(torch.uint8), scale


def decoded(codes: Tensor, scale: Tensor, kind: Kind, offset: int = OFFSET) -> Tensor:
    """Return what codes stand for, float32.

    :param codes: ``(rows, numbers)``; ``scale``: ``(rows, 1)``.
    """
    numbers = table(kind, offset).to(codes.device)
    return numbers.index_select(0, codes.flatten().int()).view(codes.shape) * scale


def rounded(x: Tensor, kind: Kind, offset: int = OFFSET) -> Tensor:
    """Return a tensor of any shape as it comes out of the codes, with one scale."""
    codes, scale = encoded(x.reshape(1, -1), kind, offset)
    return decoded(codes, scale, kind, offset).view(x.shape).to(x.dtype)


class _Crossing(torch.autograd.Function):
    """Rounds what passes forward, and the gradient that comes back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kind: Kind, offset: int) -> Tensor:
        ctx.type_ = kind, offset
        return rounded(x, kind, offset)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return rounded(gradient, *ctx.type_), None, None


class EightBits(Transform):
    """Holds a tensor at numbers of 8 bits, with its largest absolute value for a scale where the type has one.

    Arithmetic stays in floats, so there are no ``bits`` that would count as cheaper multiplications.

    :param kind: see :func:`table`.
    :param offset: see :func:`table`.
    :param both_ways: the gradient is rounded likewise, as where forward and backward values are sent; else it passes.
    """

    key = "eight-bits"
    rank = QUANTIZE

    def __init__(self, kind: Kind = "tree", offset: int = OFFSET, both_ways: bool = False) -> None:
        super().__init__()
        self.kind, self.offset, self.both_ways = kind, offset, both_ways

    def forward(self, value: Tensor) -> Tensor:
        """Return the nearest numbers, of the tensor's shape."""
        if self.both_ways:
            crossed: Tensor = _Crossing.apply(value, self.kind, self.offset)
            return crossed
        return straight_through(rounded(value, self.kind, self.offset), value)

    def holds(self, final: Tensor) -> str | None:
        """Check the number of levels."""
        levels = len(torch.unique(final))
        return f"{levels} levels, more than 256" if levels > 256 else None

    def config(self) -> dict[str, Any]:
        """Return the type."""
        return {"kind": self.kind, "offset": self.offset, "both_ways": self.both_ways}

    def code(self, coding: Coding, final: Tensor) -> Coding:
        """Return a codebook of the numbers that occur, and a code for each weight."""
        return Coding(Palette(final))
