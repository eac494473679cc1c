"""The range of an activation, followed by a moving average."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from condensery_plugins.quantization.affine import Grid, fake_quantize, nudged_grid


class Range(nn.Module):
    """An exponential moving average of each batch's minimum and maximum, and the grid of whole codes on it.

    The first ``1 / (1 - decay)`` batches are averaged evenly, so that the start has no weight of its own.

    :param bits: codes 0 to ``2^bits - 1``.
    :param decay: share of the old average that a new batch leaves.
    """

    low: Tensor
    high: Tensor
    batches: Tensor

    def __init__(self, bits: int, decay: float) -> None:
        super().__init__()
        self.bits, self.decay = bits, decay
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def observe(self, x: Tensor) -> None:
        """Take one batch, of any shape, into the average."""
        share = (1 / (self.batches + 1)).clamp_min(1 - self.decay).to(self.low.dtype)
        low, high = torch.aminmax(x.detach())
        self.low.lerp_(low.to(self.low.dtype), share)
        self.high.lerp_(high.to(self.high.dtype), share)
        self.batches += 1

    def take(self, other: Range) -> None:
        """Take over another one's average."""
        for mine, theirs in ((self.low, other.low), (self.high, other.high), (self.batches, other.batches)):
            mine.copy_(theirs)

    def grid(self) -> Grid:
        """Return the nudged grid."""
        return nudged_grid(self.low, self.high, 0, 2**self.bits - 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the fake-quantized activation, of its shape."""
        return fake_quantize(x, self.grid())
