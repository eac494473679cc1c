"""Whole numbers and bits in place of floats: windows of a convolution, words of bits, sums of chosen rows."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

Words = NDArray[np.uint64]
AT_ONCE = 2**13
"""Pairs of words that are compared at once: few enough to stay in a core's cache."""
COLUMNS = 512
"""Inputs whose sums are made at once, for the same reason."""


class Geometry(NamedTuple):
    """How a convolution walks over its input: rows, then columns."""

    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    def outputs(self, kernel: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
        """Return height and width of the outputs, for those of the input."""
        sides = zip(size, self.padding, self.dilation, kernel, self.stride, strict=True)
        rows, columns = ((side + 2 * pad - step * (k - 1) - 1) // stride + 1 for side, pad, step, k, stride in sides)
        return rows, columns


def windows(x: Tensor, kernel: tuple[int, int], how: Geometry, fill: float) -> Tensor:
    """Return what each output of a convolution sees: ``(groups, batch * outputs, kernel * channels of a group)``.

    Channels lie innermost, so that whole runs are copied.

    :param x: of any type, ``(batch, height, width, groups, channels of a group)``.
    :param fill: what pads.
    """
    rows, columns = how.outputs(kernel, (x.shape[1], x.shape[2]))
    up, left = how.padding
    x = functional.pad(x, (0, 0, 0, 0, left, left, up, up), value=fill).contiguous()

    batch, _, _, groups, channels = x.shape
    each = x.stride()
    by_row, by_column = each[1] * how.stride[0], each[2] * how.stride[1]
    down, right = each[1] * how.dilation[0], each[2] * how.dilation[1]
    seen = x.as_strided(
        (groups, batch, rows, columns, *kernel, channels),
        (each[3], each[0], by_row, by_column, down, right, each[4]),
    )
    return seen.reshape(groups, batch * rows * columns, -1)


def packed(bits: Tensor) -> Tensor:
    """Return bits, eight to a byte along the last dimension, the first one lowest; the last byte is filled with zeros.

    :param bits: bool, ``(..., bits)``.
    """
    return torch.from_numpy(np.packbits(bits.cpu().numpy(), axis=-1, bitorder="little"))


def words(data: Tensor) -> Words:
    """Return rows of bytes as words of 64 bits, ``(rows, words)``, the last one filled with zeros.

    :param data: uint8, ``(rows, bytes)``.
    """
    return functional.pad(data, (0, -data.shape[1] % 8)).contiguous().numpy().view("<u8")


def counted(compare: Any, left: Words, right: Words) -> Tensor:
    """Return how many bits are set when each row is compared with each other row, int32, ``(rows, other rows)``.

    Bits are counted by the processor, which numpy can ask for it and torch can't.

    :param compare: a ufunc on words, such as ``np.bitwise_xor``.
    :param left: ``(rows, words)``.
    :param right: ``(other rows, words)``.
    """
    out = np.zeros((len(left), len(right)), np.int32)
    by_word = np.ascontiguousarray(right.T)
    step = max(1, AT_ONCE // max(1, len(right)))
    for start in range(0, len(left), step):
        part, sums = left[start : start + step], out[start : start + step]
        compared = np.empty(sums.shape, np.uint64)
        for place, row in enumerate(by_word):
            compare(part[:, place, None], row, out=compared)
            sums += np.bitwise_count(compared)
    return torch.from_numpy(out)


class Chosen(NamedTuple):
    """Which inputs each output adds up.

    :param places: of the inputs, output after output.
    :param starts: where each output's places start, and at last their number.
    """

    places: Tensor
    starts: Tensor

    @classmethod
    def of(cls, chosen: Tensor) -> Chosen:
        """Return the list of what is set in ``(outputs, inputs)``, bool."""
        ends = chosen.sum(1).cumsum(0)
        return cls(chosen.nonzero()[:, 1].contiguous(), torch.cat([ends.new_zeros(1), ends]))

    def sums(self, x: Tensor) -> Tensor:
        """Return sums of inputs, ``(outputs, columns)``, by additions alone.

        :param x: ``(inputs, columns)``, contiguous.
        """
        if not len(self.places):
            return x.new_zeros(len(self.starts) - 1, x.shape[1])
        return functional.embedding_bag(self.places, x, self.starts, mode="sum", include_last_offset=True)


def whole_products(left: Tensor, right: Tensor) -> Tensor:
    """Return the matrix product of two int8 matrices, exact, int32.

    By torch's integer product where that is exact: on processors without instructions for it, it cuts off sums of two
    products at 16 bits. Elsewhere by float64 or float32, whichever holds all sums.

    :param left: ``(rows, inputs)``.
    :param right: ``(outputs, inputs)``.
    """
    if left.device.type == "cpu" and integer_product_is_exact():
        return torch._int_mm(left, right.T)
    dtype = torch.float32 if left.shape[1] * 2**14 <= 2**24 and left.device.type == "cpu" else torch.float64
    return (left.to(dtype) @ right.to(dtype).T).to(torch.int32)


@functools.cache
def integer_product_is_exact() -> bool:
    """Tell whether torch's integer matrix product is exact here, from products at the ends of int8."""
    generator = torch.Generator().manual_seed(0)
    left, right = (
        torch.where(torch.rand(n, 70, generator=generator) < 0.8, 127, -128).to(torch.int8) for n in (33, 18)
    )
    return torch.equal(torch._int_mm(left, right.T), (left.long() @ right.long().T).int())
