"""A uniform grid that stands still, and how fine it is: one range for a tensor, for each channel, or for a group."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from condensery import Transform, Weight
from condensery.nets import QUANTIZE, Coding
from condensery_plugins.codecs.affine import TOLERANCE, Affine, spread
from condensery_plugins.quantization.affine import Grid, fake_quantize, nudged_grid
from condensery_plugins.quantization.calibration import Seen, flat
from condensery_plugins.quantization.gradients import Estimator
from condensery_plugins.quantization.observers import Observe, Scheme, min_max

Granularity = Literal["tensor", "channel", "group"]


class Uniform(Transform):
    """Rounds a weight or an activation to a grid ``scale * (code - zero)`` that doesn't change.

    :param bits: width of a code.
    :param low: smallest code; ``high`` the largest.
    :param shape: of the scales and zeros, broadcasting against the tensor; with ``group`` the tensor's own.
    :param group: entries of a row that share a scale; a row is what one index of dimension 0 selects.
    :param estimator: of the gradient, which ``clip`` lets pass within the grid's range only.
    """

    key = "uniform"
    rank = QUANTIZE
    bits: int
    scale: Tensor
    zero: Tensor

    def __init__(
        self,
        bits: int,
        low: int,
        high: int,
        shape: list[int] | None = None,
        group: int | None = None,
        estimator: Estimator = "clip",
    ) -> None:
        super().__init__()
        self.bits, self.low, self.high, self.group, self.estimator = bits, low, high, group, estimator
        self.shape = list(shape or [])

        scales = self.shape
        if group is not None:
            rows, columns = scales[0], prod(scales[1:])
            scales = [rows, -(-columns // group)]
        self.register_buffer("scale", torch.ones(scales))
        self.register_buffer("zero", torch.zeros(scales))

    @classmethod
    def on(
        cls,
        grid: Grid,
        bits: int,
        estimator: Estimator = "clip",
        *,
        full: Tensor | None = None,
        group: int | None = None,
    ) -> Self:
        """Return a quantizer on a grid.

        :param full: with ``group``, the tensor that it is for.
        """
        shape = list(grid.scale.shape if full is None else full.shape)
        made = cls(bits, grid.low, grid.high, shape, group, estimator)
        made.scale, made.zero = grid.scale.detach().clone(), grid.zero.detach().clone()
        return made

    def grid(self, shape: torch.Size) -> Grid:
        """Return the grid, its scales and zeros broadcasting against a tensor of some shape."""
        return Grid(spread(self.scale, shape, self.group), spread(self.zero, shape, self.group), self.low, self.high)

    def forward(self, value: Tensor) -> Tensor:
        """Return the nearest reals on the grid, of the value's shape."""
        return fake_quantize(value, self.grid(value.shape), self.estimator)

    def resize(self, take: Callable[[Tensor], Tensor]) -> None:
        """Slice scales and zeros after a cut; a group that has lost entries takes in some of the next one's."""
        if self.group is None:
            super().resize(take)
            self.shape = list(self.scale.shape)
            return

        # Each entry brings the range that it had, and the new group covers the ranges of all of its entries.
        grid = self.grid(torch.Size(self.shape))
        low, high = (take((code - grid.zero) * grid.scale) for code in (self.low, self.high))
        self.shape = list(low.shape)
        lows, highs = (torch.split(end.flatten(1), self.group, 1) for end in (low, high))
        ends = torch.stack([x.amin(1) for x in lows], 1), torch.stack([x.amax(1) for x in highs], 1)
        self.scale, self.zero, *_ = nudged_grid(*ends, self.low, self.high)

    def holds(self, final: Tensor) -> str | None:
        """Check that all values are on the grid."""
        grid = self.grid(final.shape)
        off = int(((grid.values(grid.codes(final)) - final).abs() > TOLERANCE * grid.scale).sum())
        return f"{off} values are off the grid" if off else None

    def config(self) -> dict[str, Any]:
        """Return width and ends of the codes, and how many grids there are."""
        names = ("bits", "low", "high", "shape", "group", "estimator")
        return {name: getattr(self, name) for name in names}

    def code(self, coding: Coding, final: Tensor) -> Coding:
        """Return codes packed in their range, and the scales."""
        zero = (self.zero - self.low).to(torch.int64).cpu()
        return Coding(Affine(self.bits, self.scale, zero, self.group))


def for_weight(
    weight: Weight,
    scheme: Scheme,
    observe: Observe,
    granularity: Granularity = "tensor",
    group: int = 64,
    estimator: Estimator = "clip",
) -> Uniform:
    """Return a quantizer for a weight, on the ranges that an observer finds.

    :param granularity: ``channel``: a grid for each output of the layer, and for each row of an embedding; ``group``:
        for each ``group`` inputs of an output, or numbers of a row. Outputs that don't lie along dimension 0, as in a
        transposed convolution, have one group each.
    """
    values = weight.latent.detach()
    rows = 0 if isinstance(weight.module, nn.Embedding) else weight.axes[0]
    if granularity == "tensor":
        return Uniform.on(scheme.grid(*observe([values.flatten()], scheme)), scheme.bits, estimator)

    if granularity == "group" and rows == 0:
        parts = [observe([part], scheme) for part in torch.split(values.flatten(1), group, 1)]
        low, high = (torch.stack(ends, 1) for ends in zip(*parts, strict=True))
        return Uniform.on(scheme.grid(low, high), scheme.bits, estimator, full=values, group=group)

    shape = [-1 if dim == rows else 1 for dim in range(values.dim())]
    low, high = (end.view(shape) for end in observe([values.movedim(rows, 0).flatten(1)], scheme))
    return Uniform.on(scheme.grid(low, high), scheme.bits, estimator)


def for_input(
    seen: Seen, bits: int, observe: Observe, *, symmetric: bool = True, estimator: Estimator = "clip"
) -> Uniform:
    """Return a quantizer for what reaches a layer, on one range; what is never negative gets no negative codes.

    :param symmetric: see :class:`.observers.Scheme`.
    """
    scheme = Scheme(bits, symmetric, signed=bool((flat(seen) < 0).any()))
    grid = scheme.grid(*observe([call.flatten() for call in seen], scheme))
    return Uniform.on(grid, bits, estimator)


def for_unit_input(seen: Seen, bits: int, estimator: Estimator = "clip") -> Uniform:
    """Return a quantizer for what reaches a layer: 2^bits levels from 0 to 1, which 1 / (2^bits - 1) lies between.

    What is negative on sampled data, such as images, has an affine grid on the range that was seen.
    """
    if bool((flat(seen) < 0).any()):
        return for_input(seen, bits, min_max, symmetric=False, estimator=estimator)
    one = torch.ones((), device=seen[0].device)
    return Uniform.on(Scheme(bits, signed=False).grid(torch.zeros_like(one), one), bits, estimator)
