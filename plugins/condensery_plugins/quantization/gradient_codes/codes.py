"""How a gradient becomes bytes and comes back: one code for each kind of levels, several methods share them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from condensery import Weight
from condensery_plugins.quantization.gradient_codes.words import packed, parted, unpacked, with_floats

Draw = Callable[[], Tensor]
"""Gives numbers drawn from 0 to 1, one for each that is coded."""


class Symbols(NamedTuple):
    """Codes, ``(workers, numbers)``, each less than ``kinds``, and the floats that each worker sends beside them."""

    codes: Tensor
    kinds: int
    floats: int


class Code(ABC):
    """Turns the numbers of each worker into bytes, and back."""

    @abstractmethod
    def encode(self, values: Tensor, draw: Draw) -> Tensor:
        """Return the bytes of each worker, uint8 of shape ``(workers, size(numbers))``.

        :param values: ``(workers, numbers)``.
        """

    @abstractmethod
    def decode(self, words: Tensor, numbers: int) -> Tensor:
        """Return what the bytes stand for, ``(workers, numbers)``."""

    @abstractmethod
    def size(self, numbers: int) -> int:
        """Return the bytes of one worker."""

    def symbols(self, words: Tensor, numbers: int) -> Symbols | None:
        """Return the codes in some bytes, where an entropy coder would make them smaller."""
        return None


@dataclass(frozen=True)
class ScaledSign(Code):
    """A sign for each number, 0 counts as positive, and one scale: that of all zeros is 0, so that they stay zeros.

    :param norm: the scale is the mean absolute value (``l1``), or the root of the mean square (``l2``).
    """

    norm: Literal["l1", "l2"] = "l1"

    def encode(self, values: Tensor, draw: Draw) -> Tensor:
        """Return the scale, then eight signs to a byte."""
        sizes = values.abs()
        scale = sizes.mean(1, keepdim=True) if self.norm == "l1" else sizes.square().mean(1, keepdim=True).sqrt()
        return with_floats(scale, packed(values >= 0, 1))

    def decode(self, words: Tensor, numbers: int) -> Tensor:
        """Return plus or minus the scale."""
        scale, signs = parted(words, 1)
        return torch.where(unpacked(signs, 1, numbers) > 0, scale, -scale)

    def size(self, numbers: int) -> int:
        """Return four bytes, and one for eight numbers."""
        return 4 + -(-numbers // 8)


@dataclass(frozen=True)
class ColumnMeans(Code):
    """A sign for each number, and two values for each column: the mean of its numbers from 0 on, and of the others.

    :param columns: of the matrix that the numbers are.
    :param across: the numbers lie row by row, so that those of a column are ``columns`` apart; else side by side.
    """

    columns: int
    across: bool

    def encode(self, values: Tensor, draw: Draw) -> Tensor:
        """Return the two means of each column, then eight signs to a byte."""
        given = self._laid(values)
        above = given >= 0
        count = above.sum(1)
        high = (given * above).sum(1) / count.clamp_min(1)
        low = (given * ~above).sum(1) / (given.shape[1] - count).clamp_min(1)
        return with_floats(torch.cat([low, high], 1), packed(values >= 0, 1))

    def decode(self, words: Tensor, numbers: int) -> Tensor:
        """Return the mean that each sign stands for."""
        means, signs = parted(words, 2 * self.columns)
        above = unpacked(signs, 1, numbers) > 0
        low, high = means[:, None, : self.columns], means[:, None, self.columns :]
        found = torch.where(self._laid(above), high, low)
        return (found if self.across else found.transpose(1, 2)).flatten(1)

    def size(self, numbers: int) -> int:
        """Return eight bytes for each column, and one for eight numbers."""
        return 8 * self.columns + -(-numbers // 8)

    def _laid(self, values: Tensor) -> Tensor:
        """Return numbers as ``(workers, numbers of a column, columns)``."""
        if self.across:
            return values.view(len(values), -1, self.columns)
        return values.view(len(values), self.columns, -1).transpose(1, 2)


@dataclass(frozen=True)
class ByOutput(Code):
    """Another code for the numbers of a weight, laid row by row: first all that make its first output, and so on.

    :param shape: of the weight, which may have its inputs first, as a transposed convolution's.
    :param rows: its shape as it is laid, outputs first.
    """

    code: Code
    weight: Weight
    shape: torch.Size
    rows: torch.Size

    def encode(self, values: Tensor, draw: Draw) -> Tensor:
        """Return the bytes of the numbers as they are laid."""
        return self.code.encode(torch.stack([self.weight.rows(v.view(self.shape)).flatten() for v in values]), draw)

    def decode(self, words: Tensor, numbers: int) -> Tensor:
        """Return numbers in the weight's own order."""
        found = self.code.decode(words, numbers)
        return torch.stack([self.weight.from_rows(row.view(self.rows)).flatten() for row in found])

    def size(self, numbers: int) -> int:
        """Return the bytes of one worker."""
        return self.code.size(numbers)


@dataclass(frozen=True)
class StochasticLevels(Code):
    """Levels 0, 1/s to 1 of each sign, times a scale; a number between two goes to either, so that its mean is right.

    Alistarh and others: "QSGD", NIPS 2017, section 3.1. All zeros stay zeros.

    :param levels: s, of each sign.
    :param bucket: numbers that share a scale; ``0``: all.
    :param norm: the scale is the largest absolute value (``max``), or the Euclidean norm (``l2``).
    """

    levels: int
    bucket: int = 0
    norm: Literal["max", "l2"] = "max"

    @property
    def bits(self) -> int:
        """Bits of one number: its level and sign."""
        return math.ceil(math.log2(2 * self.levels + 1))

    def encode(self, values: Tensor, draw: Draw) -> Tensor:
        """Return the scales, then the numbers in their bits."""
        scales, codes = self.rounded(values, draw)
        return with_floats(scales, packed(codes, self.bits))

    def rounded(self, values: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        """Return the scale of each bucket, ``(workers, buckets)``, and the numbers as -s to s, plus s."""
        parts = self._parts(values)
        scales = parts.abs().amax(2) if self.norm == "max" else parts.square().sum(2).sqrt()
        sizes = parts.abs() * (self.levels / torch.where(scales > 0, scales, 1.0))[:, :, None]

        sizes = sizes.flatten(1)[:, : values.shape[1]]
        below = sizes.floor()
        level = (below + (draw() < sizes - below)).clamp_max(self.levels)
        return scales, (self.levels + level * values.sign()).to(torch.uint8)

    def decode(self, words: Tensor, numbers: int) -> Tensor:
        """Return the levels times their scales."""
        scales, codes = parted(words, self._buckets(numbers))
        level = unpacked(codes, self.bits, numbers).float() - self.levels
        parts = self._parts(level) * (scales / self.levels)[:, :, None]
        return parts.flatten(1)[:, :numbers]

    def size(self, numbers: int) -> int:
        """Return four bytes for each bucket, and the bits of the numbers."""
        return 4 * self._buckets(numbers) + -(-numbers * self.bits // 8)

    def symbols(self, words: Tensor, numbers: int) -> Symbols:
        """Return the levels of all numbers."""
        scales, codes = parted(words, self._buckets(numbers))
        return Symbols(unpacked(codes, self.bits, numbers), 2 * self.levels + 1, scales.shape[1])

    def _buckets(self, numbers: int) -> int:
        return -(-numbers // self.bucket) if self.bucket else 1

    def _parts(self, values: Tensor) -> Tensor:
        """Return numbers as ``(workers, buckets, numbers of a bucket)``, the last bucket filled with 0."""
        each = self.bucket or values.shape[1]
        return F.pad(values, (0, -values.shape[1] % each)).view(len(values), -1, each)
