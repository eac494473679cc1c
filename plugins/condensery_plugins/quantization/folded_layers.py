"""Convolution and linear layer that train as they will run in whole numbers, batch normalization folded in."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from condensery.errors import UsageError
from condensery.nets import Layer, StandIn, straight_through
from condensery_plugins.quantization.affine import (
    INT32,
    Grid,
    fake_quantize,
    nudged_grid,
    quantize_multiplier,
    signed_ends,
)
from condensery_plugins.quantization.integer_layers import (
    CAPS,
    Integer,
    IntegerConv2d,
    IntegerLinear,
    Numbers,
    Requantization,
    accumulate,
    convolve,
)
from condensery_plugins.quantization.ranges import Range

BIAS_ROOM = 2**30
"""An int32 bias stays within this, so that half of int32 is left for the products."""

ROUNDING = 1e-3
"""Of a code: how far rounding in float32 can move a real, and more; it then still has the same code."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a layer quantizes.

    :param output_bits: ``None``: the output is not quantized, because an activation that can't be fused follows.
    :param activation: ``relu`` or ``relu6``, which the net applies to the output anyway: here its range is cut so.
    :param linked: the input comes from another such layer on that one's output grid, which the range repeats.
    :param eps: of the batch normalization folded in; ``None`` where there is none.
    :param momentum: of its moving averages.
    """

    weight_bits: int = 8
    input_bits: int = 8
    output_bits: int | None = 8
    activation: str | None = None
    linked: bool = False
    ema_decay: float = 0.99
    eps: float | None = None
    momentum: float = 0.1


class Folded(Layer):
    """What both training layers share; a subclass is also the plain layer that it replaces.

    In training the input, the folded weight and the output are fake-quantized, the bias isn't. In eval mode it computes
    with the codes themselves, as the integer layer does, so that both agree to the last code.

    Statistics and ranges move only while its method lets them: ``follows_batches`` (the batch's own mean and variance
    are used, the averages follow), ``follows_ranges``; ``active`` is off as long as activations stay float.
    """

    gamma: nn.Parameter
    beta: nn.Parameter
    running_mean: Tensor
    running_var: Tensor

    def _start(self, plan: Plan, channels: int) -> None:
        """Add what the plain layer hasn't; called by the constructors, after the plain one."""
        self.plan = plan
        self.weight_bits, self.input_bits = plan.weight_bits, plan.input_bits
        self.active, self.follows_ranges, self.follows_batches = True, False, False
        self.input_range = Range(plan.input_bits, plan.ema_decay)
        self.output_range = None if plan.output_bits is None else Range(plan.output_bits, plan.ema_decay)
        if plan.eps is not None:
            self.gamma, self.beta = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
            self.register_buffer("running_mean", torch.zeros(channels))
            self.register_buffer("running_var", torch.ones(channels))

    @abstractmethod
    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return what the plain layer computes."""

    @abstractmethod
    def per_channel(self, values: Tensor) -> Tensor:
        """Return one value per output channel in a shape that broadcasts against the weight."""

    @abstractmethod
    def bake(self) -> Integer:
        """Return the integer layer."""

    @torch.no_grad()
    def stand_in(self) -> StandIn:
        """Return the plain layer with batch normalization folded in."""
        weight, bias = self.fold()
        geometry = {**geometry_of(self), "bias": bias is not None}  # type: ignore[arg-type]
        made = nn.Linear(**geometry) if isinstance(self, nn.Linear) else nn.Conv2d(**geometry)
        made.weight = nn.Parameter(weight.clone())
        if bias is not None:
            made.bias = nn.Parameter(bias.clone())
        per_channel = ("gamma", "beta", "running_mean", "running_var") if self.plan.eps is not None else ()
        own = ("bias",) if self._own()[1] is not None else ()
        return StandIn(made, {"weight": ("weight",), "bias": own + per_channel})

    # ---------------------------------------------------------------- folding

    def fold(self, x: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Return weight and bias with batch normalization folded in.

        :param x: the input, where the batch's own statistics may be wanted: the layer is run on it with the float
            weight first.
        """
        weight, own = self._own()
        if self.plan.eps is None:
            return weight, own
        if x is not None and self.training and self.follows_batches:
            mean, var = self._statistics(self.product(x, weight, own))
        else:
            mean, var = self.running_mean, self.running_var
        factor = self.gamma / (var + self.plan.eps).sqrt()
        shift = -mean if own is None else own - mean
        return weight * self.per_channel(factor), self.beta + shift * factor

    def _own(self) -> tuple[Tensor, Tensor | None]:
        """Return the float weight and bias, through their transforms."""
        weight, bias = self.weight, self.bias
        assert isinstance(weight, Tensor)
        assert bias is None or isinstance(bias, Tensor)
        return weight, bias

    def _statistics(self, out: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and variance of each channel, and let the averages follow."""
        out = out.to(self.running_mean.dtype)
        dims = [d for d in range(out.dim()) if d != self.channel_dim % out.dim()]
        var, mean = torch.var_mean(out, dims, correction=0)
        count = out.numel() // out.size(self.channel_dim)
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.plan.momentum)
            self.running_var.lerp_(var * (count / max(1, count - 1)), self.plan.momentum)
        return mean, var

    channel_dim: int

    def weight_grid(self, weight: Tensor) -> Grid:
        """Return the grid of a folded weight: its own range, and the most negative code left out."""
        low, high = torch.aminmax(weight.detach())
        return nudged_grid(low, high, *signed_ends(self.plan.weight_bits))

    # ---------------------------------------------------------------- forward

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output; behind a fused activation it is that of the activation too."""
        if self.training or not self.active:
            return self.soft(x)
        with torch.no_grad():
            numbers = self.numbers()
            out = numbers.real(accumulate(x, numbers, self.plan.input_bits, self.product))
        return straight_through(out, self.soft(x)) if torch.is_grad_enabled() else out

    def soft(self, x: Tensor) -> Tensor:
        """Return the output by fake quantization, in floats and with a gradient."""
        if not self.plan.linked:  # a linked one is on its grid already
            x = self._site(self.input_range, x)
        weight, bias = self.fold(x)
        out = self.product(x, fake_quantize(weight, self.weight_grid(weight)), bias)
        if self.plan.activation is not None:
            out = out.clamp(0, CAPS[self.plan.activation])
        return out if self.output_range is None else self._site(self.output_range, out)

    def _site(self, site: Range, x: Tensor) -> Tensor:
        if self.training and self.follows_ranges:
            site.observe(x)
        return site(x) if self.active else x

    # ---------------------------------------------------------------- whole numbers

    @torch.no_grad()
    def numbers(self) -> Numbers:
        """Return the integer layer's numbers, from the moving averages.

        :raises UsageError: if accumulators could leave int32.
        """
        weight, bias = self.fold()
        grid, inputs = self.weight_grid(weight), self.input_range.grid()
        if bias is None:
            bias = weight.new_zeros(weight.size(0))
        grid = grid._replace(scale=self._least_scale(grid.scale, inputs.scale, bias))
        codes = grid.codes(weight)
        step = inputs.scale.double() * grid.scale.double()
        whole_bias = (bias.double() / step).round()
        farthest = torch.maximum(inputs.zero - inputs.low, inputs.high - inputs.zero)
        reach = ((codes - grid.zero).abs().double().flatten(1).sum(1) * farthest + whole_bias.abs()).max()
        if float(reach) > INT32:
            raise UsageError(f"accumulators of {weight[0].numel()} products may leave int32: use fewer bits")
        return Numbers(
            codes=codes.to(torch.int8),
            weight_scale=grid.scale,
            weight_zero=grid.zero.to(torch.int32),
            bias=whole_bias.to(torch.int32),
            input_scale=inputs.scale,
            input_zero=inputs.zero.to(torch.int32),
            reach=reach.to(torch.int64),
            output=None if self.output_range is None else self._output(self.output_range.grid(), step),
        )

    @staticmethod
    def _least_scale(scale: Tensor, input_scale: Tensor, bias: Tensor) -> Tensor:
        """Return the weight's scale, coarser where an all but vanished weight has a bias that int32 couldn't hold."""
        return torch.maximum(scale, bias.abs().max() / (input_scale * BIAS_ROOM))

    def _output(self, grid: Grid, step: Tensor) -> Requantization:
        """Return the requantization from accumulators of a scale to a grid."""
        low, high = grid.zero.new_tensor(grid.low), grid.zero.new_tensor(grid.high)
        cap = CAPS[self.plan.activation]
        if self.plan.activation is not None:
            low = grid.zero
        if cap is not None:  # rounded down: the net's own activation must leave the real of each code as it is
            high = torch.minimum(high, (cap / grid.scale.double() + ROUNDING).floor() + grid.zero)
        zero, low, high = (value.to(torch.int32) for value in (grid.zero, low, high))
        return Requantization(grid.scale, zero, *quantize_multiplier(step / grid.scale.double()), low, high)

    def _widths(self) -> dict[str, Any]:
        widths = {"weight_bits": self.plan.weight_bits, "input_bits": self.plan.input_bits}
        return {"shape": list(self._own()[0].shape), **widths, "output_bits": self.plan.output_bits}


class FoldedConv2d(Folded, nn.Conv2d):
    """A convolution with zero padding.

    :param geometry: the arguments of ``nn.Conv2d``.
    :param plan: the fields of :class:`Plan`.
    """

    key = "folded-conv2d"
    channel_dim = 1

    def __init__(self, geometry: Mapping[str, Any], plan: Mapping[str, Any]) -> None:
        nn.Conv2d.__init__(self, **geometry)
        self._start(Plan(**plan), self.out_channels)

    def config(self) -> dict[str, Any]:
        """Return geometry and plan."""
        return {"geometry": geometry_of(self), "plan": dataclasses.asdict(self.plan)}

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return the convolution."""
        return convolve(x, weight, bias, vars(self))

    def per_channel(self, values: Tensor) -> Tensor:
        """Return ``(channels, 1, 1, 1)``."""
        return values.view(-1, 1, 1, 1)

    def bake(self) -> IntegerConv2d:
        """Return the integer convolution."""
        geometry = {n: geometry_of(self)[n] for n in ("stride", "padding", "dilation", "groups")}
        return IntegerConv2d(geometry, **self._widths()).fill(self.numbers())


class FoldedLinear(Folded, nn.Linear):
    """A linear layer.

    :param geometry: the arguments of ``nn.Linear``.
    :param plan: the fields of :class:`Plan`.
    """

    key = "folded-linear"
    channel_dim = -1

    def __init__(self, geometry: Mapping[str, Any], plan: Mapping[str, Any]) -> None:
        nn.Linear.__init__(self, **geometry)
        self._start(Plan(**plan), self.out_features)

    def config(self) -> dict[str, Any]:
        """Return geometry and plan."""
        return {"geometry": geometry_of(self), "plan": dataclasses.asdict(self.plan)}

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return the matrix product."""
        return functional.linear(x, weight, bias)

    def per_channel(self, values: Tensor) -> Tensor:
        """Return ``(channels, 1)``."""
        return values.view(-1, 1)

    def bake(self) -> IntegerLinear:
        """Return the integer linear layer."""
        return IntegerLinear(**self._widths()).fill(self.numbers())


def geometry_of(layer: nn.Conv2d | nn.Linear) -> dict[str, Any]:
    """Return the arguments that build a plain layer again, as JSON data."""
    if isinstance(layer, nn.Linear):
        size: dict[str, Any] = {"in_features": layer.in_features, "out_features": layer.out_features}
    else:
        names = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups")
        size = {n: list(v) if isinstance(v := getattr(layer, n), tuple) else v for n in names}
    return {**size, "bias": layer.bias is not None}
