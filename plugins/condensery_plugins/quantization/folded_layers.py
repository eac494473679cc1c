"""Convolution and linear layer that train as they will run in whole numbers, batch normalization folded in."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from condensery import Layer, Transform, straight_through
from condensery.nets import StandIn, latent_of, stack_of
from condensery_plugins.quantization.affine import Grid, fake_quantize, nudged_grid, signed_ends
from condensery_plugins.quantization.integer_arithmetic import (
    CAPS,
    Numbers,
    accumulate,
    exact_type,
    is_narrow,
    numbers_of,
)
from condensery_plugins.quantization.integer_layers import Integer, IntegerConv2d, IntegerLinear
from condensery_plugins.quantization.ranges import Range

SIZES = {
    nn.Linear: ("in_features", "out_features"),
    nn.Conv2d: ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups"),
}
"""The arguments of the plain layers, but for their bias."""


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

    :param geometry: the arguments of the plain layer.
    :param plan: the fields of :class:`Plan`.
    """

    plain: ClassVar[type[nn.Linear | nn.Conv2d]]
    """The layer that it replaces."""
    channel_dim: ClassVar[int]
    """The dimension of the output that holds the channels."""
    weight: Tensor
    bias: Tensor | None
    gamma: nn.Parameter
    beta: nn.Parameter
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, geometry: Mapping[str, Any], plan: Mapping[str, Any]) -> None:
        super().__init__(**geometry)
        self.plan = Plan(**plan)
        self.weight_bits, self.input_bits = self.plan.weight_bits, self.plan.input_bits
        self.active, self.follows_ranges, self.follows_batches = True, False, False

        decay, output_bits = self.plan.ema_decay, self.plan.output_bits
        self.input_range = Range(self.input_bits, decay)
        self.output_range = None if output_bits is None else Range(output_bits, decay)

        if self.plan.eps is not None:
            channels = len(self.weight)
            self.gamma, self.beta = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
            self.register_buffer("running_mean", torch.zeros(channels))
            self.register_buffer("running_var", torch.ones(channels))

    def config(self) -> dict[str, Any]:
        """Return geometry and plan."""
        return {"geometry": geometry_of(self), "plan": dataclasses.asdict(self.plan)}

    @abstractmethod
    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return what the plain layer computes, of the shapes that it takes and gives."""

    @abstractmethod
    def bake(self) -> Integer:
        """Return the integer layer."""

    @torch.no_grad()
    def stand_in(self) -> StandIn:
        """Return the plain layer with batch normalization folded in."""
        weight, bias = self.fold()
        made = self.plain(**{**geometry_of(self), "bias": bias is not None})
        made.weight = nn.Parameter(weight.clone())
        if bias is not None:
            made.bias = nn.Parameter(bias.clone())

        own = ("bias",) if self.bias is not None else ()
        per_channel = ("gamma", "beta", "running_mean", "running_var") if self.plan.eps is not None else ()
        return StandIn(made, {"weight": ("weight",), "bias": own + per_channel})

    # ---------------------------------------------------------------- folding

    def fold(self, x: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Return weight and bias with batch normalization folded in, of the plain layer's shapes.

        :param x: the input, where the batch's own statistics may be wanted: the layer is run on it with the float
            weight first.
        """
        weight, own = self.weight, self.bias
        if self.plan.eps is None:
            return weight, own

        if x is not None and self.training and self.follows_batches:
            mean, var = self._statistics(self.product(x, weight, own))
        else:
            mean, var = self.running_mean, self.running_var

        factor = self.gamma / (var + self.plan.eps).sqrt()
        shift = -mean if own is None else own - mean
        per_filter = factor.view(-1, *[1] * (weight.dim() - 1))
        return weight * per_filter, self.beta + shift * factor

    def _statistics(self, out: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and variance of each channel, ``(channels,)``, and let the averages follow."""
        out = out.to(self.running_mean.dtype)
        dims = [d for d in range(out.dim()) if d != self.channel_dim % out.dim()]
        var, mean = torch.var_mean(out, dims, correction=0)

        count = out.numel() // out.size(self.channel_dim)
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.plan.momentum)
            self.running_var.lerp_(var * (count / max(1, count - 1)), self.plan.momentum)
        return mean, var

    def weight_grid(self, weight: Tensor) -> Grid:
        """Return the grid of a folded weight: its own range, and the most negative code left out."""
        low, high = torch.aminmax(weight.detach())
        return nudged_grid(low, high, *signed_ends(self.plan.weight_bits))

    # ---------------------------------------------------------------- forward

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output, of the plain one's shape; behind a fused activation it is that of both."""
        if self.training or not self.active:
            return self.soft(x)

        with torch.no_grad():
            numbers = self.numbers()
            dtype = exact_type(is_narrow(numbers.reach), x.device)
            out = numbers.real(accumulate(x, numbers, self.plan.input_bits, self.product, dtype))
        return straight_through(out, self.soft(x)) if torch.is_grad_enabled() else out

    def soft(self, x: Tensor) -> Tensor:
        """Return the output by fake quantization, in floats and with a gradient."""
        if not self.plan.linked:  # a linked one is on its grid already
            x = self._quantized(x, self.input_range)

        weight, bias = self.fold(x)
        out = self.product(x, fake_quantize(weight, self.weight_grid(weight)), bias)
        if self.plan.activation is not None:
            out = out.clamp(0, CAPS[self.plan.activation])
        return out if self.output_range is None else self._quantized(out, self.output_range)

    def _quantized(self, x: Tensor, on: Range) -> Tensor:
        """Return an activation on the grid of its range, which follows it where it may."""
        if self.training and self.follows_ranges:
            on.observe(x)
        return on(x) if self.active else x

    # ---------------------------------------------------------------- whole numbers

    @torch.no_grad()
    def numbers(self) -> Numbers:
        """Return the integer layer's numbers, from the moving averages.

        :raises UsageError: if accumulators could leave int32.
        """
        weight, bias = self.fold()
        if bias is None:
            bias = weight.new_zeros(len(weight))
        outputs = None if self.output_range is None else self.output_range.grid()
        inputs, grid = self.input_range.grid(), self.weight_grid(weight)
        return numbers_of(weight, bias, grid, inputs, outputs, self.plan.activation)

    def _marks(self) -> list[Transform]:
        """Return what is on the weight: it says how the integer layer's is stored."""
        stack = stack_of(self, "weight")
        return [] if stack is None else [t for t in stack.transforms.values() if isinstance(t, Transform)]

    def _widths(self) -> dict[str, Any]:
        """Return the settings that both integer layers take."""
        names = ("weight_bits", "input_bits", "output_bits")
        return {"shape": list(self.weight.shape), **{name: getattr(self.plan, name) for name in names}}


class FoldedConv2d(Folded, nn.Conv2d):
    """A convolution with zero padding."""

    key = "folded-conv2d"
    plain = nn.Conv2d
    channel_dim = 1

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return the convolution."""
        return functional.conv2d(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)

    def bake(self) -> IntegerConv2d:
        """Return the integer convolution."""
        geometry = {name: geometry_of(self)[name] for name in ("stride", "padding", "dilation", "groups")}
        return IntegerConv2d(geometry, **self._widths()).fill(self.numbers(), self._marks())


class FoldedLinear(Folded, nn.Linear):  # type: ignore[misc]  # torch says that its bias is always there
    """A linear layer."""

    key = "folded-linear"
    plain = nn.Linear
    channel_dim = -1

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return the matrix product."""
        return functional.linear(x, weight, bias)

    def bake(self) -> IntegerLinear:
        """Return the integer linear layer."""
        return IntegerLinear(**self._widths()).fill(self.numbers(), self._marks())


def fold(layer: nn.Conv2d | nn.Linear, norm: nn.BatchNorm1d | nn.BatchNorm2d | None, plan: Plan) -> Folded:
    """Return the training layer for a plain one and the batch normalization behind it; their parameters move into it.

    :param norm: with scales and moving averages, or ``None``.
    :param plan: ``eps`` and ``momentum`` are taken from the norm.
    """
    if norm is not None:
        assert norm.momentum is not None
        plan = dataclasses.replace(plan, eps=norm.eps, momentum=norm.momentum)
    made = FoldedLinear if isinstance(layer, nn.Linear) else FoldedConv2d
    new = made(geometry_of(layer), dataclasses.asdict(plan)).train(layer.training)

    new.weight = latent_of(layer, "weight")
    if new.bias is not None:
        new.bias = latent_of(layer, "bias")
    if norm is not None:
        assert norm.running_mean is not None
        assert norm.running_var is not None
        new.gamma, new.beta = latent_of(norm, "weight"), latent_of(norm, "bias")
        new.running_mean.copy_(norm.running_mean)
        new.running_var.copy_(norm.running_var)
    return new


def lies_across(layer: nn.Module) -> bool:
    """Tell whether a layer is transformers' Conv1D: a linear layer whose weight is ``(inputs, outputs)``."""
    kind = nn.utils.parametrize.type_before_parametrizations(layer)
    return (kind.__module__, kind.__name__) == ("transformers.pytorch_utils", "Conv1D")


def upright(layer: nn.Module) -> nn.Linear:
    """Return a linear layer that computes what a layer that lies across does, with a weight of its own."""
    weight = latent_of(layer, "weight")
    inputs, outputs = weight.shape
    made = nn.Linear(inputs, outputs, device="meta")  # nothing is drawn
    made.weight = nn.Parameter(turned(weight.detach()), requires_grad=weight.requires_grad)
    made.bias = latent_of(layer, "bias")
    return made.train(layer.training)


def turned(values: Tensor) -> Tensor:
    """Return numbers that go with a weight, of its shape or one that broadcasts against it, turned with it."""
    return (values if values.dim() > 1 else values[None]).mT.contiguous()


def geometry_of(layer: nn.Module) -> dict[str, Any]:
    """Return the arguments that build a plain convolution or linear layer again, as JSON data."""
    names = SIZES[nn.Linear if isinstance(layer, nn.Linear) else nn.Conv2d]
    size = {name: getattr(layer, name) for name in names}
    size = {name: list(value) if isinstance(value, tuple) else value for name, value in size.items()}
    return {**size, "bias": layer.bias is not None}
