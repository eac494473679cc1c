"""Linear layers and convolutions that multiply no floats but one for each output: on bits, on codes, by additions."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from condensery import Layer, Transform
from condensery.nets import BitPack, Coding, Counted, Leaf
from condensery_plugins.codecs.signs import Signs
from condensery_plugins.codecs.ternary import Ternary
from condensery_plugins.quantization.packed_words import (
    COLUMNS,
    Chosen,
    Geometry,
    Words,
    counted,
    packed,
    whole_products,
    windows,
    words,
)

AT_ONCE = 2**24
"""Numbers that the windows of a convolution may hold at once."""


class Codes(NamedTuple):
    """Reals as whole numbers: real = scale * code.

    :param low: smallest code that may occur; ``high`` the largest.
    :param bits: width of a code.
    """

    scale: float
    low: int
    high: int
    bits: int

    def of(self, x: Tensor) -> Tensor:
        """Return the codes of some reals, of their shape, as whole floats."""
        return (x.float() / self.scale).round_().clamp_(self.low, self.high)


class Packed(Layer):
    """What these layers share: codes of the weight, scales for each output, and the walk of a convolution.

    It has no gradient. Sums are scaled once for each output, which is all that is multiplied in floats; the result
    differs from the plain layer's by float32's rounding of the sum.

    :param shape: of the weight.
    :param weight_bits: width of a code of the weight.
    :param inputs: the grid of the inputs, the fields of :class:`Codes`; ``None``: any floats.
    :param geometry: the fields of :class:`.packed_words.Geometry` of a convolution; ``None`` for a linear layer.
    :param bias: whether it has one.
    :param scaled: shape of the scales: one row where they are those of positive and negative codes, else one for each;
        one column where all outputs share them.
    """

    codes: Tensor
    scales: Tensor
    bias: Tensor | None

    def __init__(
        self,
        shape: list[int],
        weight_bits: int,
        inputs: Mapping[str, Any] | None = None,
        geometry: Mapping[str, Any] | None = None,
        bias: bool = False,
        scaled: Sequence[int] = (1, 1),
    ) -> None:
        super().__init__()
        self.shape, self.weight_bits = list(shape), weight_bits
        self.inputs = None if inputs is None else Codes(**inputs)
        self.geometry = None if geometry is None else Geometry(*(_pair(geometry[name]) for name in Geometry._fields))
        self._made: tuple[Tensor, int, list[Any]] | None = None
        self.marks: Sequence[Transform] = ()
        """What was on the weight and says how it is stored: masks, and that it is entropy coded."""

        self.register_buffer("codes", torch.zeros(self.shape, dtype=torch.int8))
        self.register_buffer("scales", torch.zeros(*scaled))
        self.register_buffer("bias", torch.zeros(self.shape[0]) if bias else None)

    def config(self) -> dict[str, Any]:
        """Return shape, widths, grid and geometry."""
        return {
            "shape": self.shape,
            "weight_bits": self.weight_bits,
            "inputs": None if self.inputs is None else self.inputs._asdict(),
            "geometry": None if self.geometry is None else self.geometry._asdict(),
            "bias": self.bias is not None,
            "scaled": list(self.scales.shape),
        }

    @classmethod
    def filled(
        cls, codes: Tensor, scales: Tensor, bias: Tensor | None, marks: Sequence[Transform] = (), **settings: Any
    ) -> Self:
        """Return a layer with some numbers.

        :param codes: whole, of the weight's shape.
        :param scales: of positive codes and of negative ones, ``(2, outputs)``, or as many as the layer has.
        """
        for dim in (0, 1):
            first = scales.narrow(dim, 0, 1)
            scales = first if bool((scales == first).all()) else scales
        made = cls(shape=list(codes.shape), bias=bias is not None, scaled=list(scales.shape), **settings)
        made.marks = tuple(marks)
        made.codes, made.scales = codes.detach().to(torch.int8), torch.zeros_like(made.scales).copy_(scales.detach())
        made.bias = None if bias is None else bias.detach().float().clone()
        return made

    def codings(self) -> dict[str, Coding]:
        """Return the codes at their width, zeros left out where a mask made them."""
        coding = Coding(self.leaf())
        for transform in self.marks:
            coding = transform.code(coding, self.codes)
        return {"codes": coding}

    def leaf(self) -> Leaf:
        """Return how a code is stored."""
        if self.codes.numel() and int(self.codes.abs().max()) > 1:
            return BitPack.of(self.codes)
        return Signs() if bool(self.codes.all()) else Ternary()

    @property
    def weight(self) -> Tensor:
        """The real weight, of the layer's ``shape``."""
        up, down = (scale.view(-1, *[1] * (len(self.shape) - 1)) for scale in self._each)
        return self.codes * torch.where(self.codes > 0, up, down)

    @property
    def _each(self) -> Tensor:
        """The scales of each output, ``(2, outputs)``."""
        return self.scales.expand(self._scales, self.shape[0])

    @property
    def _scales(self) -> int:
        """How many scales an output has."""
        return 2

    @property
    def input_bits(self) -> int:
        """Width of an input's code."""
        return 32 if self.inputs is None else self.inputs.bits

    def counted(self) -> dict[str, Tensor]:
        """Return weight and bias."""
        bias = {} if self.bias is None else {"bias": self.bias}
        return {"weight": self.weight, **bias}

    def work(self, *inputs: Any) -> Counted:
        """Return multiply-accumulates as the plain layer would do them, their bit operations, and the bytes moved.

        Codes count at their width; the input is read as it comes, in floats, and floats are written. Windows of a
        convolution and what the codes become for the products are left out.
        """
        (x,) = inputs
        outputs = x[..., 0].numel()
        if self.geometry is not None:
            rows, columns = self.geometry.outputs(self._kernel, (x.shape[2], x.shape[3]))
            outputs = len(x) * rows * columns
        macs = outputs * self.codes.numel()
        bits = self.weight_bits, self.input_bits
        moved = -(-self.codes.numel() * self.weight_bits // 8) + x.nbytes + 4 * outputs * self.shape[0]
        return Counted(macs, outputs * int(self.weight.count_nonzero()), macs * bits[0] * bits[1], moved, (bits,))

    @property
    def _kernel(self) -> tuple[int, int]:
        return self.shape[2], self.shape[3]

    @abstractmethod
    def encoded(self, x: Tensor) -> tuple[Tensor, float]:
        """Return an input as the layer computes with it, ``(..., numbers)`` of ``(..., inputs)``, and what pads it."""

    @abstractmethod
    def prepared(self, codes: Tensor) -> Any:
        """Return what is made of the weight of one group once.

        :param codes: ``(outputs, ..., inputs)``.
        """

    @abstractmethod
    def sums(self, rows: Tensor, weight: Any, scales: Tensor) -> Tensor:
        """Return the scaled sums of one group, ``(rows, outputs)``, float32.

        :param rows: encoded inputs, ``(rows, numbers)``.
        :param weight: of :meth:`prepared`.
        :param scales: ``(2, outputs)``.
        """

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Return what the plain layer would, of its shape, float32.

        :raises ValueError: if an input that is to become codes is not a number, as no code says so.
        """
        if self.inputs is not None and bool(x.isnan().any()):
            raise ValueError(f"{self.key}: an input is not a number")
        if self.geometry is None:
            return self._multiplied(x)
        if x.dim() == len(self.shape) - 1:  # one example without a batch
            return self.forward(x[None])[0]
        if not len(x):
            return x.new_zeros(0, self.shape[0], *self.geometry.outputs(self._kernel, (x.shape[2], x.shape[3])))

        seen = x[0].numel() * self.shape[2] * self.shape[3]  # by one example's outputs, at most
        parts = torch.split(x, max(1, AT_ONCE // max(1, seen)))
        out = torch.cat([self._convolved(part, self.geometry) for part in parts])
        return out if self.bias is None else out + self.bias.view(-1, 1, 1)

    def _multiplied(self, x: Tensor) -> Tensor:
        """Return what a linear layer would, ``(..., outputs)``, bias included."""
        out = x.new_zeros(x.shape[:-1].numel(), self.shape[0])
        if len(out):
            rows = self.encoded(x.reshape(len(out), -1))[0]
            out = self.sums(rows, self._weights()[0], self._each)
        out = out.view(*x.shape[:-1], self.shape[0])
        return out if self.bias is None else out + self.bias

    def _convolved(self, x: Tensor, how: Geometry) -> Tensor:
        """Return the convolution of some examples, without bias."""
        rows, fill = self.encoded(x.movedim(1, -1).view(len(x), *x.shape[2:], how.groups, -1))
        seen = windows(rows, self._kernel, how, fill)
        padding = self._of_padding(x, how)

        scales = self._each.chunk(how.groups, 1)
        parts = zip(seen, self._weights(), scales, padding, strict=True)
        outs = [
            self.sums(part, weight, scale).view(len(x), -1, scale.shape[1]) + more
            for part, weight, scale, more in parts
        ]
        size = how.outputs(self._kernel, (x.shape[2], x.shape[3]))
        return torch.cat(outs, 2).view(len(x), *size, -1).movedim(-1, 1).contiguous()

    def _weights(self) -> list[Any]:
        """Return what is made of each group's weight, as long as the codes are the same."""
        version = self.codes._version
        if self._made is None or self._made[0] is not self.codes or self._made[1] != version:
            groups = 1 if self.geometry is None else self.geometry.groups
            last = self.codes.movedim(1, -1)
            self._made = self.codes, version, [self.prepared(part.contiguous()) for part in last.chunk(groups)]
        return self._made[2]

    def _of_padding(self, x: Tensor, how: Geometry) -> list[Tensor]:
        """Return what padding must add where it isn't real zeros: for each group, ``(outputs of an example, ...)``."""
        return [torch.zeros((), device=x.device)] * how.groups


class XnorLayer(Packed):
    """Signs times signs: the bits that are unequal are counted.

    A sum of n products of signs is n - 2 (bits that are unequal). What pads counts as minus one first, and is taken out
    again by counting bits too.
    """

    key = "xnor-layer"

    def encoded(self, x: Tensor) -> tuple[Tensor, float]:
        """Return bits, set for what isn't negative, eight to a byte."""
        return packed(x >= 0), 0

    def prepared(self, codes: Tensor) -> Words:
        """Return the bits of the weight as words, ``(outputs, words)``."""
        return words(packed(codes > 0).flatten(1))

    def sums(self, rows: Tensor, weight: Words, scales: Tensor) -> Tensor:
        """Return counts, scaled."""
        unequal = counted(np.bitwise_xor, words(rows), weight)
        return (self.codes[0].numel() - 2 * unequal).to(scales.device) * scales[0]

    def _of_padding(self, x: Tensor, how: Geometry) -> list[Tensor]:
        if how.padding == (0, 0):
            return super()._of_padding(x, how)
        inside = torch.ones(1, *x.shape[2:], 1, self.shape[1], dtype=torch.bool)
        seen = words(windows(packed(inside), self._kernel, how, 0)[0])
        used = torch.from_numpy(np.bitwise_count(seen).sum(1, dtype=np.int32))[:, None]

        found = []
        for weight, scales in zip(self._weights(), self._each.chunk(how.groups, 1), strict=True):
            whole = 2 * torch.from_numpy(np.bitwise_count(weight).sum(1, dtype=np.int32)) - self.codes[0].numel()
            seen_sums = 2 * counted(np.bitwise_and, seen, weight) - used
            found.append((whole - seen_sums).to(scales.device) * scales[0])
        return found


class CodesLayer(Packed):
    """Whole numbers of 8 bits times whole numbers, summed in int32."""

    key = "codes-layer"

    @property
    def _offset(self) -> int:
        """What is taken from the codes of the inputs, so that they fit int8; it is put back after the sum."""
        assert self.inputs is not None
        return self.inputs.low + 128 if self.inputs.high > 127 or self.inputs.low < -128 else 0

    def encoded(self, x: Tensor) -> tuple[Tensor, float]:
        """Return codes, int8."""
        assert self.inputs is not None
        return (self.inputs.of(x) - self._offset).to(torch.int8), -self._offset

    def prepared(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Return the codes, ``(outputs, inputs)``, and what the offset adds to each output."""
        return codes.flatten(1), self._offset * codes.flatten(1).sum(1, dtype=torch.int32)

    def sums(self, rows: Tensor, weight: tuple[Tensor, Tensor], scales: Tensor) -> Tensor:
        """Return sums of whole numbers, scaled."""
        assert self.inputs is not None
        return (whole_products(rows, weight[0]) + weight[1]) * (scales[0] * self.inputs.scale)


class SelectLayer(Packed):
    """Weights -1, 0 and 1 times any inputs: those of each sign are added up, and the difference is scaled."""

    key = "select-layer"

    def encoded(self, x: Tensor) -> tuple[Tensor, float]:
        """Return the input."""
        return x.float(), 0

    def prepared(self, codes: Tensor) -> tuple[Chosen, Chosen]:
        """Return which inputs each output adds, and which it takes away."""
        return Chosen.of(codes.flatten(1) > 0), Chosen.of(codes.flatten(1) < 0)

    def sums(self, rows: Tensor, weight: tuple[Chosen, Chosen], scales: Tensor) -> Tensor:
        """Return differences of sums, scaled."""
        outs = []
        for start in range(0, len(rows), COLUMNS):
            x = rows[start : start + COLUMNS].T.contiguous()
            up, down = (chosen.sums(x) for chosen in weight)
            outs.append(up * scales[0, :, None] - down * scales[1, :, None])
        return torch.cat(outs, 1).T


class ShiftLayer(Packed):
    """Weights that are powers of two, or zero: inputs with the same power are added up, and the sums are shifted.

    A code is the sign times the place of the power, counted from 1; ``scales`` holds the smallest power. Sums of an
    input on a grid are shifted as whole numbers, those of others by their exponents.
    """

    key = "shift-layer"

    @property
    def weight(self) -> Tensor:
        """The real weight, of the layer's ``shape``."""
        least = self._each[0].view(-1, *[1] * (len(self.shape) - 1))
        return self.codes.sign() * torch.ldexp(least.expand(self.shape), self.codes.abs().int() - 1)

    def encoded(self, x: Tensor) -> tuple[Tensor, float]:
        """Return the input, or its codes, in float64: sums of many wide codes would be rounded in float32."""
        return x.float() if self.inputs is None else self.inputs.of(x).double(), 0

    def prepared(self, codes: Tensor) -> list[tuple[Chosen, Chosen]]:
        """Return, by power, which inputs each output adds, and which it takes away."""
        flat = codes.flatten(1)
        most = int(flat.abs().max()) if flat.numel() else 0
        return [(Chosen.of(flat == place), Chosen.of(flat == -place)) for place in range(1, most + 1)]

    def sums(self, rows: Tensor, weight: list[tuple[Chosen, Chosen]], scales: Tensor) -> Tensor:
        """Return sums of shifted sums."""
        whole = self.inputs is not None
        x = rows.T.contiguous()
        out = x.new_zeros(scales.shape[1], len(rows), dtype=torch.int64 if whole else torch.float32)
        for place, (up, down) in enumerate(weight):
            difference, shift = up.sums(x) - down.sums(x), torch.tensor(place)
            out += difference.long() << shift if whole else torch.ldexp(difference, shift)

        unit = scales[0] * (self.inputs.scale if self.inputs is not None else 1.0)
        return (out * unit[:, None]).T


def _pair(value: Any) -> Any:
    """Return a list as a tuple."""
    return tuple(value) if isinstance(value, list) else value
