from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from condensery import Stage, Weight, hookimpl, straight_through
from condensery_plugins.quantization.binarized import attach_signs
from condensery_plugins.quantization.calibration import levels_beyond
from condensery_plugins.quantization.gradients import passing
from condensery_plugins.quantization.quantizer import FixedWidth
from condensery_plugins.quantization.signs import SumOfSigns, sign
from condensery_plugins.quantization.tanh_levels import FewLevels

RIDGE = 1e-6
"""Added to the normal equations, for bases that are nearly the same."""


class ShiftedSigns(FewLevels, SumOfSigns):
    """A sum of signs of the weight, each moved by another share of its deviation and with a scale of its own.

    B_m = sign(w - mean(w) + u_m std(w)), u_m evenly spaced from -1 to 1, or 0 for one alone; the scales are those with
    the least squared error, found anew in each pass. They are constants to the gradient, which each sign passes as it
    is: a latent weight's is g times the sum of the scales.

    :param bits: number of signs.
    """

    key = "shifted-signs"

    def _bases(self, value: Tensor) -> list[Tensor]:
        """Return the signs, each of the weight's shape."""
        shifts = torch.linspace(-1, 1, self.bits) if self.bits > 1 else torch.zeros(1)
        centred, deviation = value - value.mean(), value.std(correction=0)
        return [sign(centred + float(shift) * deviation) for shift in shifts]

    def numbers(self, value: Tensor) -> Tensor:
        """Return the scales, each for the whole weight."""
        return best_scales(self._bases(value), value).view(-1, *[1] * value.dim())

    def forward(self, value: Tensor) -> Tensor:
        """Return the sums, of the weight's shape."""
        with torch.no_grad():
            bases = self._bases(value)
            scales = best_scales(bases, value)
            out = torch.zeros_like(value)
            for basis, scale in zip(bases, scales, strict=True):
                out += scale * basis  # in order, so that equal signs give equal sums
        return straight_through(out, scales.sum() * value)

    def holds(self, final: Tensor) -> str | None:
        """Check the number of levels: the signs of one weight differ in where they change, and in nothing else."""
        return levels_beyond(final, self.bits + 1)


def best_scales(bases: list[Tensor], value: Tensor) -> Tensor:
    """Return the scales of some signs whose sum is nearest to a tensor, ``(bases,)`` of its type."""
    signs = torch.stack([basis.flatten() for basis in bases]).double()
    gram = signs @ signs.T + RIDGE * torch.eye(len(bases), dtype=signs.dtype, device=signs.device)
    found: Tensor = torch.linalg.solve(gram, signs @ value.flatten().double())
    return found.to(value.dtype)


class BinaryActivations(SumOfSigns):
    """A sum of signs of an activation, each with a learned shift and a learned scale.

    A_n = 1 where clip(x + v_n, 0, 1) > 1/2, else -1, and the value is the sum of beta_n A_n. The gradient of a sign
    passes to x and to v_n where x + v_n is within 0 and 1.

    :param bits: number of signs.
    """

    key = "binary-activations"
    settings = {"weight_decay": 0.0}

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits = bits
        shifts = torch.linspace(-0.5, 0.5, bits) if bits > 1 else torch.zeros(1)
        self.shifts, self.scales = nn.Parameter(shifts), nn.Parameter(torch.full((bits,), 1 / bits))

    def forward(self, value: Tensor) -> Tensor:
        """Return the sums, of the activation's shape."""
        out = torch.zeros_like(value)
        for shift, scale in zip(self.shifts, self.scales, strict=True):
            moved = value + shift
            seen = moved.detach()
            signs = torch.where(seen.isnan(), seen, torch.where(seen > 0.5, 1.0, -1.0))
            out = out + scale * passing(signs, moved, (seen >= 0) & (seen <= 1))
        return out

    def numbers(self, value: Tensor) -> Tensor:
        """Return the scales."""
        return self.scales

    def config(self) -> dict[str, Any]:
        """Return the number of signs."""
        return {"bits": self.bits}


@dataclass(eq=False, kw_only=True)
class ABCNet(FixedWidth):
    """Train a net whose weights and inner inputs are sums of several signs, each with a scale of its own.

    Lin, Zhao, Pan: "Towards Accurate Binary Convolutional Neural Network", NeurIPS 2017 [27]. A layer's weight is a sum
    of M signs of it, moved by shares of its deviation, with scales by least squares; an input is a sum of N signs whose
    shifts and scales are learned. So a layer is M N binary ones, side by side. First and last layer stay float.

    When: scales of weights are found anew in each pass, from the latent weights; start from a trained net. The signs of
    inputs stand behind batch normalization, so a ReLU module in between is taken away; a shortcut that starts behind
    the same ReLU loses it too.

    End: an artifact holds a code for each weight and the sums that occur in a layer, M + 1 at most.

    Raises NotApplicable where a layer is quantized already, where the net has no layer between the first and the last,
    and where a layer's input is never negative although no ReLU module stands before it.
    """

    key = "abc-net"

    leaves = frozenset({"quantized-weights", "quantized-activations"})

    weight_bases: int = 5
    activation_bases: int | None = 5

    def weight_quantizer(self, weight: Weight, bits: int) -> ShiftedSigns:
        """Return what holds the layer's weights at sums of signs."""
        return ShiftedSigns(self.weight_bases)

    @hookimpl
    def prepare(self, stage: Stage) -> None:
        """Hold weights and inputs at sums of signs."""
        self.quantize(stage)
        if (count := self.activation_bases) is not None:
            first = stage.edges()[0]
            inner = [weight for weight in self.held(stage) if weight.path != first]
            attach_signs(stage, self.key, inner, lambda: BinaryActivations(count))
