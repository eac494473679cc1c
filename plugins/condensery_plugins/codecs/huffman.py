from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from condensery.nets import Cost, Leaf, to_bytes, whole_numbers
from condensery_plugins.codecs.prefix_code import Ints, code_lengths
from condensery_plugins.codecs.prefix_streams import BLOCK, Tuples, read, write

WIDEST = 2**14
"""Symbols from the lowest to the highest."""


class Huffman(Leaf):
    """Whole numbers by a canonical Huffman code, optimal among those with no code over 15 bits.

    Streams: ``lengths``, the lowest number (int32) and 4 bits for each number from there, 0 where it doesn't occur;
    ``data``, the codes, first bit highest; ``blocks``, the bits of each 1024 numbers (uint16), if there are more.
    Codes ascend with length, then with the number. A single distinct number needs no data.
    """

    key = "huffman"
    tables = frozenset({"lengths", "blocks"})

    def encode(self, values: Tensor) -> dict[str, Tensor]:
        """Return lengths, codes, and the bits of the blocks.

        :raises ValueError: if the numbers range over more than 2^14.
        """
        numbers = whole_numbers(values, self.key)
        tuples, counts = histogram(numbers)
        lengths = code_lengths(counts)

        data, blocks = np.zeros(0, np.uint8), np.zeros(0, np.int64)
        if len(np.flatnonzero(lengths)) > 1:
            data, blocks = write(numbers, tuples, lengths, int(counts @ lengths))

        streams = {"lengths": _lengths_stream(tuples.lowest, lengths), "data": torch.from_numpy(data)}
        return {**streams, "blocks": to_bytes(blocks.astype("<u2"))} if len(blocks) > 1 else streams

    def decode(self, streams: Mapping[str, Tensor], shape: Sequence[int]) -> Tensor:
        """Return the numbers as int32."""
        count, table = prod(shape), streams["lengths"].numpy()
        if not count:
            return torch.zeros(list(shape), dtype=torch.int32)

        low = int.from_bytes(table[:4].tobytes(), "little", signed=True)
        lengths = np.stack([table[4:] & 15, table[4:] >> 4], 1).reshape(-1).astype(np.int64)
        used = np.flatnonzero(lengths)
        if len(used) == 1:
            if streams["data"].numel():
                raise ValueError("codes for a single number")
            return torch.full(list(shape), low + int(used[0]), dtype=torch.int32)

        blocks = np.frombuffer(streams["blocks"].numpy().tobytes(), "<u2") if "blocks" in streams else None
        numbers = read(streams["data"].numpy(), blocks, lengths, count).astype(np.int32)
        numbers += np.int32(low)
        return torch.from_numpy(numbers).view(list(shape))

    def cost(self, values: Tensor) -> Cost:
        """Return the sum of counts times lengths, in whole bytes, and the tables."""
        numbers = whole_numbers(values, self.key)
        counts = histogram(numbers)[1]
        if not len(counts):
            return Cost()

        lengths = code_lengths(counts)
        several = len(np.flatnonzero(counts)) > 1
        blocks = -(-numbers.size // BLOCK)
        payload = -(-int(counts @ lengths) // 8) if several else 0
        return Cost(payload, 4 + -(-len(lengths) // 2) + (2 * blocks if several and blocks > 1 else 0))


def histogram(numbers: NDArray[Any]) -> tuple[Tuples, Ints]:
    """Return how numbers become symbols, and how often each from the lowest to the highest occurs.

    :param numbers: flat.
    :raises ValueError: if they range over more than 2^14, or one doesn't fit int32.
    """
    if not numbers.size:
        return Tuples(0, 0, 0), np.zeros(0, np.int64)
    low, high = int(numbers.min()), int(numbers.max())
    if high - low >= WIDEST or low < -(2**31) or high >= 2**31:
        raise ValueError(f"{Huffman.key}: numbers {low} to {high} range over more than {WIDEST}, or don't fit int32")
    tuples = Tuples(low, high - low + 1, numbers.size)
    return tuples, tuples.counts(numbers)[: high - low + 1]


def _lengths_stream(low: int, lengths: Ints) -> Tensor:
    """Return the bytes of the table: the lowest number, then two lengths a byte, the first in the lower half."""
    if not len(lengths):
        return torch.zeros(0, dtype=torch.uint8)
    pairs = np.append(lengths, [0] * (len(lengths) % 2)).astype(np.uint8).reshape(-1, 2)
    return torch.cat([to_bytes(np.array([low], "<i4")), torch.from_numpy(pairs[:, 0] | pairs[:, 1] << 4)])
