"""Convolution and linear layer in whole numbers: 8-bit codes in and out, int32 accumulators."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor
from torch.nn import functional

from condensery.nets import Layer
from condensery_plugins.quantization.affine import Grid, multiply

CAPS: dict[str | None, float | None] = {None: None, "relu": None, "relu6": 6.0}
"""Fused activations, and where they cut off."""
FLOAT32_WHOLE = 2**24
"""Float32 holds every whole number up to here; float64 up to 2^53, which no int32 accumulator comes near."""


class Requantization(NamedTuple):
    """What turns accumulators into output codes.

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
        """Return output codes, int32: ``clamp(zero + factor * accumulators)``, in integers alone."""
        codes = multiply(accumulators, self.multiplier, self.shift)
        return codes.add_(self.zero).clamp_(self.low, self.high)


class Numbers(NamedTuple):
    """All numbers of an integer layer.

    :param codes: of the weight, int8.
    :param weight_scale: float32.
    :param weight_zero: int32.
    :param bias: int32, with scale ``input_scale * weight_scale`` and zero 0; shape ``(channels,)``.
    :param input_scale: float32.
    :param input_zero: int32.
    :param reach: int64; no partial sum of an accumulator is larger, whatever the input.
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
        """Return what the layer hands on: the reals, float32, of its output codes, or of its accumulators."""
        if self.output is not None:
            return (self.output.codes(accumulators) - self.output.zero) * self.output.scale
        return (accumulators * (self.input_scale.double() * self.weight_scale.double())).float()


def exact_type(reach: Tensor) -> torch.dtype:
    """Return a float type in which sums of whole numbers up to ``reach`` are exact, in whatever order.

    Torch has no int32 convolution, and int32 products only on the CPU and slowly. Elsewhere than on the CPU float32 is
    not taken: a library may choose a convolution by transforms, whose small errors float64 and rounding absorb.
    """
    return torch.float32 if reach.device.type == "cpu" and int(reach) < FLOAT32_WHOLE else torch.float64


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Mapping[str, Any]) -> Tensor:
    """Return a convolution with a layer's stride, padding, dilation and groups."""
    steps = {n: geometry[n] for n in ("stride", "padding", "dilation", "groups")}
    return functional.conv2d(x, weight, bias, **steps)


def accumulate(x: Tensor, numbers: Numbers, bits: int, product: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
    """Return ``sum (q1 - Z1) (q2 - Z2) + bias`` as int32.

    :param x: real inputs.
    :param bits: width of their codes.
    :param product: from centred codes and bias to accumulators.
    """
    grid = Grid(numbers.input_scale, numbers.input_zero, 0, 2**bits - 1)
    dtype = exact_type(numbers.reach)
    centred = grid.codes(x).sub_(numbers.input_zero).to(dtype)
    weight = numbers.codes.to(dtype) - numbers.weight_zero
    # The transform convolutions of this library are not exact; direct ones are.
    with torch.autocast(x.device.type, enabled=False), torch.backends.nnpack.flags(enabled=False):
        sums = product(centred, weight, numbers.bias.to(dtype))
    return sums.round().to(torch.int32)


PREFIX = "output_"
"""Before the names of a requantization's buffers."""
NAMES = tuple(n for n in Numbers._fields if n != "output")
OUTPUT_NAMES = tuple(PREFIX + n for n in Requantization._fields)
TYPES = {"codes": torch.int8, "reach": torch.int64}
"""Of buffers; scales are float32, all others int32."""


def _type(name: str) -> torch.dtype:
    return torch.float32 if name.endswith("scale") else TYPES.get(name, torch.int32)


class Integer(Layer):
    """What both integer layers share: their numbers as buffers, and the way from reals over codes to reals.

    Between the layers of a net the codes travel as the reals that they stand for; a layer that gets another one's
    codes finds the same codes again. It has no gradient.

    :param shape: of the weight.
    :param weight_bits: width of the weight's codes.
    :param input_bits: width of the input's codes.
    :param output_bits: width of the output's codes; ``None`` where the accumulators are handed on.
    """

    def __init__(self, shape: list[int], weight_bits: int, input_bits: int, output_bits: int | None) -> None:
        super().__init__()
        self.shape, self.weight_bits, self.input_bits, self.output_bits = (
            list(shape),
            weight_bits,
            input_bits,
            output_bits,
        )
        sizes: dict[str, list[int]] = {"codes": self.shape, "bias": self.shape[:1]}
        for name in NAMES if output_bits is None else NAMES + OUTPUT_NAMES:
            self.register_buffer(name, torch.zeros(sizes.get(name, []), dtype=_type(name)))

    def config(self) -> dict[str, Any]:
        """Return shape and widths."""
        names = ("shape", "weight_bits", "input_bits", "output_bits")
        return {name: getattr(self, name) for name in names}

    def fill(self, numbers: Numbers) -> Self:
        """Take over the numbers of a trained layer and return self."""
        values = {n: v for n, v in numbers._asdict().items() if n != "output"}
        if numbers.output is not None:
            values |= {PREFIX + n: v for n, v in numbers.output._asdict().items()}
        for name, value in values.items():
            self._buffers[name] = value.detach().to(_type(name)).clone()
        return self

    def numbers(self) -> Numbers:
        """Return the numbers."""
        output = None
        if self.output_bits is not None:
            output = Requantization(*(self.get_buffer(n) for n in OUTPUT_NAMES))
        return Numbers(**{n: self.get_buffer(n) for n in NAMES}, output=output)

    @property
    def weight(self) -> Tensor:
        """The real weight: some nets ask a layer's weight for its type."""
        numbers = self.numbers()
        return (numbers.codes.to(torch.int32) - numbers.weight_zero) * numbers.weight_scale  # int8 would wrap

    def counted(self) -> dict[str, Tensor]:
        """Return weight and bias."""
        return {"weight": self.weight, "bias": self.numbers().bias}

    @abstractmethod
    def product(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Return what the layer computes from centred codes."""

    def accumulate(self, x: Tensor) -> Tensor:
        """Return the accumulators of some inputs, int32."""
        return accumulate(x, self.numbers(), self.input_bits, self.product)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Return the reals of the output's codes."""
        return self.numbers().real(self.accumulate(x))


class IntegerConv2d(Integer):
    """A convolution with zero padding, in whole numbers.

    :param geometry: stride, padding, dilation and groups, as ``nn.Conv2d`` takes them.
    """

    key = "integer-conv2d"

    def __init__(self, geometry: Mapping[str, Any], **settings: Any) -> None:
        super().__init__(**settings)
        self.geometry = dict(geometry)

    def config(self) -> dict[str, Any]:
        """Return shape, widths and geometry."""
        return {**super().config(), "geometry": self.geometry}

    def product(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Return the convolution; what pads is a centred code 0, so exactly real 0."""
        return convolve(x, weight, bias, self.geometry)


class IntegerLinear(Integer):
    """A linear layer in whole numbers."""

    key = "integer-linear"

    def product(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Return the matrix product."""
        return functional.linear(x, weight, bias)
