"""Units and weights that are -1, 0 or 1: drawn while a net trains, rounded or held otherwise, and cut by thresholds."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from condensery import Transform, straight_through
from condensery.nets import QUANTIZE, Coding
from condensery_plugins.codecs.affine import Affine
from condensery_plugins.quantization.signs import Signed


def drawn(mean: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Return -1, 0 or 1 for each entry, of its shape, so that the mean is the entry: floor(mean + u), u from 0 to 1.

    :param mean: from -1 to 1; of a positive entry it is the probability of 1, of a negative one, negated, that of -1.
    """
    return torch.floor(mean + torch.rand(mean.shape, generator=generator).to(mean))


class TernaryFiring(Transform):
    """Squashes an activation by tanh and fires -1, 0 or 1: drawn in training, with the tanh as mean, else rounded.

    The gradient is that of the tanh.

    :param squashed: by tanh; otherwise what comes is cut off at -1 and 1, and rounded in training too, as for images.
    """

    key = "ternary-firing"
    rank = QUANTIZE
    bits = 2

    def __init__(self, squashed: bool = True) -> None:
        super().__init__()
        self.squashed = squashed

    def forward(self, x: Tensor) -> Tensor:
        """Return what is fired, of the activation's shape."""
        if not self.squashed:
            return straight_through(x.clamp(-1, 1).round(), x)
        y = x.tanh()
        return straight_through(drawn(y.detach()) if self.training else y.round(), y)

    def config(self) -> dict[str, Any]:
        """Return whether there is a tanh."""
        return {"squashed": self.squashed}

    def code(self, coding: Coding, final: Tensor) -> Coding:
        """Return codes of two bits and the step 1."""
        return Coding(Affine(self.bits, torch.ones(())))


class DrawnTernary(Signed):
    """Holds a weight at -1, 0 or 1: drawn anew in each pass of training, with the latent weight as mean.

    Out of training the last ones drawn stay. The latent weight is kept within -1 and 1 and has the gradient as it is.

    :param shape: of the tensor.
    """

    key = "drawn-ternary"
    bits = 2
    last: Tensor

    def __init__(self, shape: list[int]) -> None:
        super().__init__()
        self.register_buffer("last", torch.zeros(shape))

    def start(self, latent: Tensor, seed: int) -> DrawnTernary:
        """Bring the latent weight within its bounds, draw the first ones, and return self."""
        with torch.no_grad():
            latent.clamp_(-1, 1)
            self.last = drawn(latent.cpu(), torch.Generator().manual_seed(seed)).to(latent)
        return self

    def forward(self, value: Tensor) -> Tensor:
        """Return the ternary values, of the weight's shape."""
        if self.training:
            self.last = drawn(value.detach().clamp(-1, 1))
        return straight_through(self.last.to(value.dtype), value)

    def settle(self, latent: Tensor | None) -> None:
        """Keep the latent weight within -1 and 1."""
        if latent is not None:
            latent.clamp_(-1, 1)

    def config(self) -> dict[str, Any]:
        """Return the shape."""
        return {"shape": list(self.last.shape)}


class Thresholds(Transform):
    """Turns whole sums into -1 below one threshold, 1 above another and 0 between them, both included.

    No gradient passes.

    :param shape: of the thresholds, which broadcast against the sums: ``(units,)``, of maps ``(channels, 1, 1)``.
    """

    key = "ternary-thresholds"
    rank = QUANTIZE
    bits = 2
    low: Tensor
    high: Tensor

    def __init__(self, shape: list[int]) -> None:
        super().__init__()
        self.register_buffer("low", torch.zeros(shape))
        self.register_buffer("high", torch.zeros(shape))

    @classmethod
    def of(cls, low: Tensor, high: Tensor) -> Thresholds:
        """Return what cuts at given thresholds."""
        made = cls(list(low.shape))
        made.low, made.high = low.float(), high.float()
        return made

    def forward(self, x: Tensor) -> Tensor:
        """Return -1, 0 and 1, of the shape of the sums."""
        fired = (x > self.high).to(x.dtype) - (x < self.low).to(x.dtype)
        return torch.where(x.isnan(), x, fired)  # what is not a number stays so

    def config(self) -> dict[str, Any]:
        """Return the shape of the thresholds."""
        return {"shape": list(self.low.shape)}
