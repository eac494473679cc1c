"""Weights of few levels, as a codebook stores them; DoReFa-Net's are evenly spaced for the tanh of the weight."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from condensery import Transform, Weight, straight_through
from condensery.nets import QUANTIZE, Coding
from condensery_plugins.codecs.palette import Palette
from condensery_plugins.quantization.calibration import levels_beyond
from condensery_plugins.quantization.signs import ScaledSign


class FewLevels(Transform):
    """What leaves a weight few values, whatever they are; an artifact stores a codebook of them.

    :param bits: there are 2^bits values besides zero at most, unless ``holds`` says otherwise.
    """

    rank = QUANTIZE
    bits: int

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits = bits

    def holds(self, final: Tensor) -> str | None:
        """Check the number of levels."""
        return levels_beyond(final, 2**self.bits)

    def config(self) -> dict[str, Any]:
        """Return the width."""
        return {"bits": self.bits}

    def code(self, coding: Coding, final: Tensor) -> Coding:
        """Return a codebook of the levels that occur, and a code for each weight."""
        return Coding(Palette(final))


class TanhLevels(FewLevels):
    """Rounds tanh(w), divided by the largest one of the layer, to 2^bits levels from -1 to 1.

    w_q = 2 round(n (t / (2 max|t|) + 1/2)) / n - 1, with t = tanh(w) and n = 2^bits - 1; the gradient passes the
    rounding as it is, and goes through tanh and maximum alike. Zero is none of the levels: a weight that is zero
    becomes 1 / n, and so do all of a layer that is all zero.

    :param bits: 2 or more.
    """

    key = "tanh-levels"

    def forward(self, value: Tensor) -> Tensor:
        """Return the levels, of the weight's shape."""
        last = 2**self.bits - 1
        t = value.tanh()
        share = t / (2 * t.abs().max().clamp_min(torch.finfo(t.dtype).tiny)) + 0.5
        return 2 * straight_through((last * share).round() / last, share) - 1


def dorefa_levels(weight: Weight, bits: int) -> TanhLevels | ScaledSign:
    """Return DoReFa-Net's quantizer for a weight: of one bit, its sign times the layer's mean size."""
    return TanhLevels(bits) if bits > 1 else ScaledSign(scaled=True, gradient="identity")
