from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from condensery import Stage, Transform, UsageError, Weight, hookimpl, straight_through
from condensery.nets import QUANTIZE, Coding
from condensery_plugins.codecs.affine import Affine
from condensery_plugins.quantization.calibration import Plan, Seen
from condensery_plugins.quantization.powers import Powers, raised
from condensery_plugins.quantization.quantizer import Quantizer
from condensery_plugins.quantization.signs import sign

WHOLE = 24
"""Bits of the whole numbers that float32 holds all of."""


class RoundedPowers(Powers):
    """Rounds a weight to a sign times 2^p, p the whole number nearest to log2|w|; the gradient passes as it is.

    Zero is no level: a weight that is zero becomes the smallest power, with a plus. The latent weight is kept between
    the smallest power and 1.

    :param bits: one for the sign, the others for p, from -(2^(bits - 1) - 1) to 0.
    """

    key = "rounded-powers"

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits, self.low = bits, 1 - 2 ** (bits - 1)

    def start(self, latent: Tensor) -> RoundedPowers:
        """Bring the latent weight to where it is kept, and return self."""
        with torch.no_grad():
            self.settle(latent)
        return self

    def forward(self, value: Tensor) -> Tensor:
        """Return the levels, of the weight's shape."""
        with torch.no_grad():
            powers = value.abs().clamp_min(2.0**self.low).log2().round()
            out = sign(value) * raised(powers, self.low, 0)
        return straight_through(out, value)

    def settle(self, latent: Tensor | None) -> None:
        """Keep the size of the latent weight within the levels."""
        if latent is not None:
            latent.copy_(sign(latent) * latent.abs().clamp(2.0**self.low, 1.0))

    def config(self) -> dict[str, Any]:
        """Return the width."""
        return {"bits": self.bits}


class TrainedShifts(Powers):
    """A sign times 2^p that are trained themselves: both are real numbers that are rounded, and a sign may be 0.

    w = s 2^p with p = round(shift), s = sign(round(sign)). The gradient of a shift is g w ln 2, that of a sign g: by
    the chain rule it would be g 2^p, but the authors' code leaves the factor out. The latent weight takes no part.

    :param bits: one for the sign, the others for p and zero, p from -(2^(bits - 1) - 2) to 0.
    :param shape: of the tensor.
    """

    key = "trained-shifts"
    settings = {"weight_decay": 0.0}

    def __init__(self, bits: int, shape: list[int]) -> None:
        super().__init__()
        self.bits, self.low = bits, 2 - 2 ** (bits - 1)
        self.shift, self.sign = nn.Parameter(torch.zeros(shape)), nn.Parameter(torch.zeros(shape))

    def start(self, latent: Tensor, generator: torch.Generator | None = None) -> TrainedShifts:
        """Start from a trained weight, or with a generator from drawn shifts and signs, and return self.

        Shifts of a trained weight are whole, as the authors' conversion makes them.
        """
        with torch.no_grad():
            if generator is None:
                self.shift.copy_(latent.abs().clamp(2.0**self.low, 1.0).log2().round())
                self.sign.copy_(latent.sign())
            else:
                self.shift.copy_(torch.rand(latent.shape, generator=generator) * self.low)
                self.sign.copy_(torch.rand(latent.shape, generator=generator) * 2 - 1)
        return self

    def forward(self, value: Tensor) -> Tensor:
        """Return the levels, of the weight's shape."""
        signs = self.sign.detach().round().sign()
        powers = raised(self.shift.detach().round(), self.low, 0)
        levels = signs * powers
        return straight_through(levels, math.log(2) * levels * self.shift + self.sign)

    def settle(self, latent: Tensor | None) -> None:
        """Keep the shifts in their range."""
        self.shift.clamp_(self.low, 0)

    def config(self) -> dict[str, Any]:
        """Return width and shape."""
        return {"bits": self.bits, "shape": list(self.shift.shape)}


class FixedPoint(Transform):
    """Rounds an activation down to whole multiples of 2^-fraction, and cuts it off; the gradient passes as it is.

    :param bits: of a number, sign and fraction included: it lies from -2^(n-1) to 2^(n-1) - 1, n = bits - fraction.
    :param fraction: bits behind the point.
    """

    key = "fixed-point"
    rank = QUANTIZE
    bits: int

    def __init__(self, bits: int, fraction: int) -> None:
        super().__init__()
        self.bits, self.fraction = bits, fraction

    def forward(self, value: Tensor) -> Tensor:
        """Return the numbers, of the activation's shape."""
        with torch.no_grad():
            bound, step = 2.0 ** (self.bits - self.fraction - 1), 2.0**-self.fraction
            out = ((value / step).floor() * step).clamp(-bound, bound - 1)
        return straight_through(out, value)

    def config(self) -> dict[str, Any]:
        """Return both widths."""
        return {"bits": self.bits, "fraction": self.fraction}

    def code(self, coding: Coding, final: Tensor) -> Coding:
        """Return whole multiples of the smallest step, unless they are more than float32 tells apart."""
        return coding if self.bits > WHOLE else Coding(Affine(self.bits, torch.tensor(2.0**-self.fraction)))


@dataclass(eq=False, kw_only=True)
class DeepShift(Quantizer):
    """Train a net whose weights are signs times powers of two, so that its products are shifts.

    Elhoushi, Chen, Shafiq, Tian, Li: "DeepShift: Towards Multiplication-Less Neural Networks", CVPR workshop 2021 [31].
    ``variant: q`` rounds latent weights, ``ps`` trains the powers and the signs themselves, which may be zero. There is
    no scale, and no weight is larger than 1. All layers take part. Inputs are rounded down to fixed point, of 32 bits
    with 16 behind the point unless ``activation_bits`` and ``fraction_bits`` say otherwise.

    When: from the start of the stage, from the weights that are there, or with ``restart`` for ``ps`` from drawn powers
    and signs. Powers and signs have no weight decay. ``ps`` trains badly by plain SGD: take Adam.

    End: an artifact holds a code for each weight and the powers that occur.

    Raises NotApplicable where a layer is quantized already.
    """

    key = "deepshift"

    counts_zeros = True

    variant: Literal["q", "ps"] = "q"
    bits: int = 5
    activation_bits: int | None = 32
    fraction_bits: int = 16
    restart: bool = False

    def __post_init__(self) -> None:
        """Refuse a number that has no bit before the point, and drawn powers where only latent weights are trained."""
        if self.activation_bits is not None and self.fraction_bits >= self.activation_bits:
            bits = self.activation_bits
            raise UsageError(f"{self.key}.fraction_bits must be < activation_bits {bits}, got {self.fraction_bits}")
        if self.restart and self.variant == "q":
            raise UsageError(f"{self.key}.restart is for variant ps; q has no powers to draw: say base: none")

    def plan(self) -> Plan:
        """Return that all weights have the same width; inputs of all layers do too."""
        return Plan(self.bits, self.activation_bits, self.bits)

    def weight_quantizer(self, weight: Weight, bits: int) -> Powers:
        """Return what holds the layer's weights at powers of two."""
        if self.variant == "q":
            return RoundedPowers(bits).start(weight.latent)
        made = TrainedShifts(bits, list(weight.latent.shape))
        return made.start(weight.latent, self.generator if self.restart else None)

    def input_quantizer(self, seen: Seen, bits: int) -> FixedPoint:
        """Return fixed point, of one width for all layers."""
        assert self.activation_bits is not None
        return FixedPoint(self.activation_bits, self.fraction_bits)

    @hookimpl
    def prepare(self, stage: Stage) -> None:
        """Hold all weights at powers of two, and inputs at fixed point."""
        self.generator = torch.Generator().manual_seed(stage.seed)
        self.quantize(stage)
