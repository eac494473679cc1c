"""Nets with random weights, on which it is tried whether a cut is right."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from condensery.nets import deep_copied
from condensery.surgery.cuts import TOLERANCE, casted


class Trial(NamedTuple):
    """A net, inputs for it, and how far its outputs may be off."""

    net: nn.Module
    example: Any
    tolerance: float


class Trials:
    """Copies of a net with random weights: one in single precision, which is fast, then one as the net is.

    A trained net's own weights may hide a wrong cut behind a scale of zero. What is right in single precision is right;
    what isn't may have been rounded.
    """

    def __init__(self, net: nn.Module, example: Any) -> None:
        self._net, self._example = net, example
        self._own = next(p.dtype for p in net.parameters() if p.is_floating_point())
        self._made: dict[torch.dtype, Trial] = {}

    def __iter__(self) -> Iterator[Trial]:
        """Yield the trials, each built when it's asked for the first time."""
        for dtype in dict.fromkeys((torch.float32, self._own)):
            if dtype not in self._made:
                self._made[dtype] = self._make(dtype)
            yield self._made[dtype]

    def _make(self, dtype: torch.dtype) -> Trial:
        empty = {
            id(p): nn.Parameter(torch.empty_like(p, dtype=dtype if p.is_floating_point() else p.dtype), False)
            for p in self._net.parameters()
        }
        net = deep_copied(self._net, empty).to(dtype)
        randomize(net, torch.Generator().manual_seed(0))
        return Trial(net, casted(self._example, dtype), TOLERANCE[dtype])


def randomize(net: nn.Module, generator: torch.Generator) -> None:
    """Draw every parameter and the statistics of batch normalization anew, of a size that keeps outputs finite."""
    # Drawing a number for each entry takes longer than all else: a few are repeated, at a length that no layer has.
    pool = torch.randn(65_537, generator=generator)
    drawn = 0

    def fill(tensor: Tensor, mean: float, scale: float) -> None:
        nonlocal drawn
        numbers, at = (mean + scale * pool).to(tensor), 0
        flat = torch.empty_like(tensor, memory_format=torch.contiguous_format).view(-1)
        while at < len(flat):
            start = drawn % len(pool)
            part = flat[at : at + len(pool) - start]
            part.copy_(numbers[start : start + len(part)])
            at, drawn = at + len(part), drawn + len(part)
        tensor.copy_(flat.view(tensor.shape))

    with torch.no_grad():
        for parameter in net.parameters():
            fan_in = parameter[0].numel() if parameter.dim() > 1 else 0
            fill(parameter, 0.0 if fan_in else 1.0, (2 / fan_in) ** 0.5 if fan_in else 0.3)
        for module in net.modules():
            if isinstance(module, _BatchNorm) and module.running_mean is not None and module.running_var is not None:
                fill(module.running_mean, 0.0, 0.1)
                fill(module.running_var, 1.0, 0.3)
                module.running_var.clamp_(0.4, 1.6)
