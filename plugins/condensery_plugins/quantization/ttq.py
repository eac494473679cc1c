from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from condensery import Weight, straight_through
from condensery_plugins.quantization.quantizer import FixedWidth
from condensery_plugins.quantization.signs import Signed


class LearnedTernary(Signed):
    """A learned positive value, zero, or a learned negative value.

    The gradient of the positive value is the sum over the weights that have it, that of the other minus the sum: a
    weight is ``-negative``. A latent weight's is g times its value's size, and g where it is zero.

    :param threshold: what is within as many times the largest absolute value is zero, the ends included.
    """

    key = "learned-ternary"
    bits = 2

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold = threshold
        self.positive, self.negative = nn.Parameter(torch.ones(())), nn.Parameter(torch.ones(()))

    def sides(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """Return which weights are beyond the threshold above and below zero, bool of the weight's shape."""
        limit = self.threshold * value.detach().abs().max()
        return value > limit, value < -limit

    def start(self, value: Tensor) -> LearnedTernary:
        """Start both values at the mean size of the weights that get them, and return self."""
        with torch.no_grad():
            for side, scale in zip(self.sides(value), (self.positive, self.negative), strict=True):
                if bool(side.any()):
                    scale.copy_(value[side].abs().mean())
        return self

    def forward(self, value: Tensor) -> Tensor:
        """Return the three values, of the weight's shape."""
        above, below = self.sides(value)
        out = self.positive * above - self.negative * below
        sizes = torch.where(above | below, out.detach().abs(), 1.0)
        return straight_through(out, out + sizes * value)

    def settle(self, latent: Tensor | None) -> None:
        """Keep both values positive."""
        for scale in (self.positive, self.negative):
            scale.abs_().clamp_min_(1e-8)

    def config(self) -> dict[str, Any]:
        """Return the threshold."""
        return {"threshold": self.threshold}


@dataclass(eq=False, kw_only=True)
class TTQ(FixedWidth):
    """Train a net whose weights are zero, or one of two values for each layer that are learned too.

    Zhu, Han, Mao, Dally: "Trained Ternary Quantization", ICLR 2017 [29]. A weight within ``threshold`` times the
    layer's largest is zero; the others become Wp or -Wn by their sign. A latent weight's gradient is scaled by Wp or
    Wn, or by 1 where it is zero. The first and the last layer stay float.

    When: Wp and Wn start at 1, or with ``start: mean`` at the mean size of their weights; they train with the net, and
    have its weight decay.

    End: an artifact holds ternary codes, 1.6 bits each, and two values for each layer.

    Raises NotApplicable where a layer is quantized already, or the net has no layer between the first and the last.
    """

    key = "ttq"

    counts_zeros = True

    threshold: float = 0.05
    start: Literal["one", "mean"] = "one"

    def weight_quantizer(self, weight: Weight, bits: int) -> LearnedTernary:
        """Return what holds the layer's weights at ternary values."""
        made = LearnedTernary(self.threshold)
        return made.start(weight.latent.detach().cpu()) if self.start == "mean" else made
