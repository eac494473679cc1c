"""The arithmetic of an integer layer: 8-bit codes come in, are multiplied and summed in int32, and leave as codes."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from condensery import UsageError
from condensery_plugins.quantization.affine import INT32, Grid, multiply, quantize_multiplier

CAPS: dict[str | None, float | None] = {None: None, "relu": None, "relu6": 6.0}
"""Fused activations, and where they cut off."""
FLOAT32_WHOLE = 2**24
"""Float32 holds every whole number up to here; float64 up to 2^53, which no int32 accumulator comes near."""
BIAS_ROOM = 2**30
"""An int32 bias stays within this, so that half of int32 is left for the products."""
ROUNDING = 1e-3
"""Of a code: how far rounding in float32 can move a real, and more; it then still has the same code."""


class Requantization(NamedTuple):
    """What turns accumulators into output codes; all of shape ``()``.

    :param scale: of the output's codes, float32.
    :param zero: their code of 0, int32.
    :param multiplier: int32, of the fixed-point factor ``input_scale * weight_scale / scale``.
    :param shift: int32, of the same.
    :param low: int32, smallest output code: that of 0 behind a ReLU.
    :param high: int32, largest output code.
    """

    scale: Tensor
    zero: Tensor
    multiplier: Tensor
    shift: Tensor
    low: Tensor
    high: Tensor

    def codes(self, accumulators: Tensor) -> Tensor:
        """Return output codes, int32: ``clamp(zero + factor * accumulators)``, in integers alone.

        :param accumulators: int32, of any shape, which is that of the codes too.
        """
        codes = multiply(accumulators, self.multiplier, self.shift)
        return codes.add_(self.zero).clamp_(self.low, self.high)


class Numbers(NamedTuple):
    """All numbers of an integer layer.

    :param codes: of the weight, int8, of its shape ``(outputs, inputs, ...)``.
    :param weight_scale: float32, shape ``()``.
    :param weight_zero: int32, shape ``()``.
    :param bias: int32, with scale ``input_scale * weight_scale`` and zero 0; shape ``(outputs,)``.
    :param input_scale: float32, shape ``()``.
    :param input_zero: int32, shape ``()``.
    :param reach: int64, shape ``()``; no partial sum of an accumulator is larger, whatever the input.
    :param output: ``None`` where the accumulators are handed on as they are.
    """

    codes: Tensor
    weight_scale: Tensor
    weight_zero: Tensor
    bias: Tensor
    input_scale: Tensor
    input_zero: Tensor
    reach: Tensor
    output: Requantization | None

    def real(self, accumulators: Tensor) -> Tensor:
        """Return what the layer hands on: the reals, float32, of its output codes, or of its accumulators.

        :param accumulators: int32, of any shape.
        """
        if self.output is not None:
            return (self.output.codes(accumulators) - self.output.zero) * self.output.scale
        return (accumulators * (self.input_scale.double() * self.weight_scale.double())).float()


def numbers_of(
    weight: Tensor, bias: Tensor, grid: Grid, inputs: Grid, outputs: Grid | None, activation: str | None
) -> Numbers:
    """Return the numbers with which an integer layer computes what a float one does.

    :param weight: of the float layer, ``(outputs, inputs, ...)``.
    :param bias: of the float layer, ``(outputs,)``.
    :param grid: of the weight's codes.
    :param inputs: of the input's codes.
    :param outputs: of the output's codes; ``None`` hands the accumulators on.
    :param activation: fused into the layer: a key of :data:`CAPS`.
    :raises UsageError: if accumulators could leave int32.
    """
    # An all but vanished weight may have a bias that int32 can't hold in steps so small; it gets coarser ones.
    coarse = bias.abs().max() / (inputs.scale * BIAS_ROOM)
    grid = grid._replace(scale=torch.maximum(grid.scale, coarse))
    step = inputs.scale.double() * grid.scale.double()
    codes, whole_bias = grid.codes(weight), (bias.double() / step).round()

    # The worst case: every input at the end of its range that is farther from zero.
    farthest = torch.maximum(inputs.zero - inputs.low, inputs.high - inputs.zero)
    products = (codes - grid.zero).abs().double().flatten(1).sum(1) * farthest
    reach = (products + whole_bias.abs()).max()
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
        output=None if outputs is None else requantization(step, outputs, activation),
    )


def requantization(step: Tensor, grid: Grid, activation: str | None) -> Requantization:
    """Return what turns accumulators into codes, behind a fused activation.

    :param step: what one accumulator stands for, float64, shape ``()``.
    :param grid: of the output's codes.
    :param activation: a key of :data:`CAPS`.
    """
    low, high = grid.zero.new_tensor(grid.low), grid.zero.new_tensor(grid.high)
    cap = CAPS[activation]
    if activation is not None:
        low = grid.zero
    if cap is not None:  # rounded down: the net's own activation must leave the real of each code as it is
        high = torch.minimum(high, (cap / grid.scale.double() + ROUNDING).floor() + grid.zero)

    zero, low, high = (value.to(torch.int32) for value in (grid.zero, low, high))
    return Requantization(grid.scale, zero, *quantize_multiplier(step / grid.scale.double()), low, high)


def accumulate(
    x: Tensor,
    numbers: Numbers,
    bits: int,
    product: Callable[[Tensor, Tensor, Tensor], Tensor],
    dtype: torch.dtype,
) -> Tensor:
    """Return ``sum (q1 - Z1) (q2 - Z2) + bias`` as int32, of the shape of the layer's output.

    :param x: real inputs, of the shape that the layer takes.
    :param bits: width of their codes.
    :param product: what the layer computes, from centred codes, centred weight and bias.
    :param dtype: in which the sums are exact, see :func:`exact_type`.
    """
    grid = Grid(numbers.input_scale, numbers.input_zero, 0, 2**bits - 1)
    centred = grid.codes(x).sub_(numbers.input_zero).to(dtype)
    weight = numbers.codes.to(dtype) - numbers.weight_zero

    # The transform convolutions of this library are not exact; direct ones are.
    with torch.autocast(x.device.type, enabled=False), torch.backends.nnpack.flags(enabled=False):
        sums = product(centred, weight, numbers.bias.to(dtype))
    return sums.round().to(torch.int32)


def is_narrow(reach: Tensor) -> bool:
    """Tell whether float32 holds all whole numbers up to ``reach``, int64 of shape ``()``."""
    return int(reach) < FLOAT32_WHOLE


def exact_type(narrow: bool, device: torch.device) -> torch.dtype:
    """Return a float type in which sums of whole numbers are exact, in whatever order.

    Torch has no int32 convolution, and int32 products only on the CPU and slowly. Elsewhere than on the CPU float32 is
    not taken: a library may choose a convolution by transforms, whose small errors float64 and rounding absorb.

    :param narrow: no sum is beyond what float32 holds, see :func:`is_narrow`.
    """
    return torch.float32 if narrow and device.type == "cpu" else torch.float64
