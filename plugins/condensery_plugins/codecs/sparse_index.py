from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from condensery.nets import BitPack, Branch, Coding, Dense

WIDTHS = range(2, 17)
"""Bits of an index that :meth:`SparseIndex.cheapest` chooses among."""


class SparseIndex(Branch):
    """The entries that are not zero, each with its distance from the one before; long distances get filler zeros.

    Han, Mao, Dally: "Deep Compression", ICLR 2016 [89], section 2 and figure 2. The longest jump is 2^bits, stored as
    jump - 1; jumps count from position -1 of the flattened tensor, so that a first entry at 0 is a jump of 1. (The
    figure's jump of 8 in 3 bits needs the first; its own first jump counts from 0.) A filler is a stored entry of
    value 0 at the longest jump. Zeros after the last entry cost nothing.

    :param bits: of an index, 1 to 16.
    """

    key = "sparse-index"
    main = "values"

    def __init__(self, bits: int) -> None:
        if not 1 <= bits <= 16:
            raise ValueError(f"{self.key}: bits must be 1 to 16, not {bits}")
        self.bits = bits

    @classmethod
    def cheapest(cls, values: Tensor, inner_bits: float) -> SparseIndex:
        """Return the width at which all entries, fillers included, cost least; of equal ones the narrowest.

        :param values: of any shape.
        :param inner_bits: what a stored value costs without its index.
        """
        skipped = _skipped(_positions(values))
        return min((cls(bits) for bits in WIDTHS), key=lambda c: c._count(skipped) * (c.bits + inner_bits))

    def entries(self, values: Tensor) -> int:
        """Return how many entries are stored, fillers included: the sum of 1 + floor((jump - 1) / 2^bits)."""
        return self._count(_skipped(_positions(values)))

    def _count(self, skipped: Tensor) -> int:
        return len(skipped) + int((skipped >> self.bits).sum())

    def encode(self, values: Tensor) -> dict[str, Tensor]:
        """Return entries and indices, ``(entries,)`` each, fillers included."""
        positions = _positions(values)
        skipped = _skipped(positions)
        fillers = skipped >> self.bits
        places = torch.arange(len(positions)) + fillers.cumsum(0)  # of the true entries among all
        total = len(positions) + int(fillers.sum())

        entries = torch.zeros(total, dtype=values.dtype)
        entries[places] = values.detach().cpu().flatten()[positions]

        # A filler's jump is the longest; what is left of a long distance stands at the entry behind its fillers.
        index = torch.full((total,), 2**self.bits - 1, dtype=torch.int32)
        index[places] = (skipped & (2**self.bits - 1)).to(torch.int32)
        return {"values": entries, "index": index}

    def decode(self, streams: Mapping[str, Tensor], shape: Sequence[int]) -> Tensor:
        """Return the tensor, zeros between the entries."""
        entries, index = streams["values"], streams["index"]
        if entries.shape != index.shape or (len(index) and int(index.min()) < 0):
            raise ValueError(f"{len(entries)} entries and {len(index)} indices")

        positions = (index + 1).cumsum(0).sub_(1)
        if len(positions) and int(positions[-1]) >= prod(shape):
            raise ValueError(f"an entry at {int(positions[-1])} of {prod(shape)}")

        flat = torch.zeros(prod(shape), dtype=entries.dtype)
        flat[positions] = entries
        return flat.view(list(shape))

    def config(self) -> dict[str, Any]:
        """Return the width."""
        return {"bits": self.bits}

    def parts(self) -> dict[str, Coding]:
        """Return float32 values and packed indices."""
        return {"values": Coding(Dense()), "index": Coding(BitPack(self.bits))}

    def spelled(self) -> str:
        """Return the width."""
        return f"{self.key}({self.bits})"


def _positions(values: Tensor) -> Tensor:
    """Return where the entries that are not zero stand in the flattened tensor, ascending."""
    return values.detach().cpu().flatten().nonzero().flatten()


def _skipped(positions: Tensor) -> Tensor:
    """Return the zeros before each entry: its jump - 1."""
    return torch.diff(positions, prepend=torch.tensor([-1])).sub_(1)
