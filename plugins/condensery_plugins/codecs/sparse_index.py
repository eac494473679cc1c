from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from condensery.nets import BitPack, Branch, Coding, Dense
from condensery_plugins.codecs.places import places_of_nonzeros

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
        left = _skipped(places_of_nonzeros(values)).numpy()
        entries = len(left)
        costs = {}
        left = left >> WIDTHS.start
        for bits in WIDTHS:
            left = left[left > 0]  # only long distances need fillers, fewer with each bit
            costs[bits] = (entries + int(left.sum())) * (bits + inner_bits)
            left >>= 1
        return cls(min(costs, key=costs.__getitem__))

    def entries(self, values: Tensor) -> int:
        """Return how many entries are stored, fillers included: the sum of 1 + floor((jump - 1) / 2^bits)."""
        skipped = _skipped(places_of_nonzeros(values))
        return len(skipped) + int((skipped >> self.bits).sum())

    def encode(self, values: Tensor) -> dict[str, Tensor]:
        """Return entries and indices, ``(entries,)`` each, fillers included."""
        positions = places_of_nonzeros(values)
        skipped = _skipped(positions)
        places = (skipped >> self.bits).cumsum(0)  # fillers so far
        places += torch.arange(len(positions))  # of the true entries among all
        total = int(places[-1]) + 1 if len(places) else 0

        true = values.detach().cpu().flatten().index_select(0, positions)
        entries = torch.zeros(total, dtype=values.dtype).scatter_(0, places, true)

        # A filler's jump is the longest; what is left of a long distance stands at the entry behind its fillers.
        longest = 2**self.bits - 1
        index = torch.full((total,), longest, dtype=torch.int32)
        index.scatter_(0, places, (skipped & longest).to(torch.int32))
        return {"values": entries, "index": index}

    def decode(self, streams: Mapping[str, Tensor], shape: Sequence[int]) -> Tensor:
        """Return the tensor, zeros between the entries."""
        entries, index = streams["values"], streams["index"]
        if entries.shape != index.shape or (len(index) and int(index.min()) < 0):
            raise ValueError(f"{len(entries)} entries and {len(index)} indices")

        positions = index.cumsum(0).add_(torch.arange(len(index)))
        if len(positions) and int(positions[-1]) >= prod(shape):
            raise ValueError(f"an entry at {int(positions[-1])} of {prod(shape)}")
        return torch.zeros(prod(shape), dtype=entries.dtype).scatter_(0, positions, entries).view(list(shape))

    def config(self) -> dict[str, Any]:
        """Return the width."""
        return {"bits": self.bits}

    def parts(self) -> dict[str, Coding]:
        """Return float32 values and packed indices."""
        return {"values": Coding(Dense()), "index": Coding(BitPack(self.bits))}

    def spelled(self) -> str:
        """Return the width."""
        return f"{self.key}({self.bits})"


def _skipped(positions: Tensor) -> Tensor:
    """Return the zeros before each entry: its jump - 1."""
    return torch.diff(positions, prepend=torch.tensor([-1])).sub_(1)
