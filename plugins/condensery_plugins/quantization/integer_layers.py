"""Convolution and linear layer in whole numbers: what is left when training is over."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional

from condensery import Layer, Transform
from condensery.nets import Coding
from condensery_plugins.codecs.offset import Offset
from condensery_plugins.quantization.integer_arithmetic import (
    Numbers,
    Requantization,
    accumulate,
    exact_type,
    is_narrow,
)

NAMES = tuple(name for name in Numbers._fields if name != "output")
OUTPUT_NAMES = tuple(f"output_{name}" for name in Requantization._fields)
"""Of the buffers that hold a layer's numbers, and those of its requantization."""
TYPES = {"codes": torch.int8, "reach": torch.int64}
"""Of those buffers; scales are float32, all others int32."""


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
    :param narrow: float32 holds the accumulators exactly; said here, so that a pass need not look at a number.
    """

    def __init__(
        self, shape: list[int], weight_bits: int, input_bits: int, output_bits: int | None, narrow: bool = False
    ) -> None:
        super().__init__()
        self.shape, self.narrow = list(shape), narrow
        self.weight_bits, self.input_bits, self.output_bits = weight_bits, input_bits, output_bits

        sizes = {"codes": self.shape, "bias": self.shape[:1]}
        self.marks: Sequence[Transform] = ()
        """What was on the trained layer's weight and says how it is stored: masks, and that it is entropy coded."""
        for name in NAMES if output_bits is None else NAMES + OUTPUT_NAMES:
            self.register_buffer(name, torch.zeros(sizes.get(name, []), dtype=_type(name)))

    def config(self) -> dict[str, Any]:
        """Return shape and widths."""
        return {name: getattr(self, name) for name in ("shape", "weight_bits", "input_bits", "output_bits", "narrow")}

    def fill(self, numbers: Numbers, marks: Sequence[Transform] = ()) -> Self:
        """Take over the numbers of a trained layer, and what says how they are stored, and return self."""
        self.marks = tuple(marks)
        self.narrow = is_narrow(numbers.reach)
        values = {name: getattr(numbers, name) for name in NAMES}
        if numbers.output is not None:
            values |= zip(OUTPUT_NAMES, numbers.output, strict=True)
        for name, value in values.items():
            self._buffers[name] = value.detach().to(_type(name)).clone()
        return self

    def numbers(self) -> Numbers:
        """Return the numbers."""
        output = None
        if self.output_bits is not None:
            output = Requantization(*(self.get_buffer(name) for name in OUTPUT_NAMES))
        return Numbers(**{name: self.get_buffer(name) for name in NAMES}, output=output)

    def codings(self) -> dict[str, Coding]:
        """Return the codes of the weight in as few bits as they need, zeros left out where a mask made them."""
        codes, zero = self.get_buffer("codes"), int(self.get_buffer("weight_zero"))
        coding = Offset.packed(codes, zero)
        for transform in self.marks:
            coding = transform.code(coding, codes)
        return {"codes": coding} if coding.cost(codes).total < codes.numel() else {}

    @property
    def weight(self) -> Tensor:
        """The real weight, of the layer's ``shape``: some nets ask a layer's weight for its type."""
        numbers = self.numbers()
        return (numbers.codes.to(torch.int32) - numbers.weight_zero) * numbers.weight_scale  # int8 would wrap

    def counted(self) -> dict[str, Tensor]:
        """Return weight and bias."""
        return {"weight": self.weight, "bias": self.numbers().bias}

    @abstractmethod
    def product(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Return what the layer computes from centred codes, of the shapes that the plain layer takes and gives."""

    def accumulate(self, x: Tensor) -> Tensor:
        """Return the accumulators of some real inputs, int32, of the shape of the output."""
        return accumulate(x, self.numbers(), self.input_bits, self.product, exact_type(self.narrow, x.device))

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Return the reals of the output's codes, float32."""
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
        return functional.conv2d(x, weight, bias, **self.geometry)


class IntegerLinear(Integer):
    """A linear layer in whole numbers."""

    key = "integer-linear"

    def product(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Return the matrix product."""
        return functional.linear(x, weight, bias)
