from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from condensery.nets import Cost, Leaf, to_bytes, whole_numbers
from condensery_plugins.codecs.prefix_code import Ints, canonical, code_lengths

WIDEST = 2**14
"""Symbols from the lowest to the highest."""
BLOCK = 1024
"""Symbols whose length in bits is written down, so that blocks can be decoded side by side."""
_LOT = 256 * BLOCK


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
        low, counts = histogram(numbers)
        lengths = code_lengths(counts)

        data, blocks = np.zeros(0, np.uint8), np.zeros(0, np.int64)
        if len(np.flatnonzero(lengths)) > 1:
            data, blocks = _pack(numbers, low, lengths)

        streams = {"lengths": _lengths_stream(low, lengths), "data": torch.from_numpy(data)}
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
        numbers = _unpack(streams["data"].numpy(), blocks, lengths, count)
        return torch.from_numpy(numbers + np.int32(low)).view(list(shape))

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


def histogram(numbers: NDArray[Any]) -> tuple[int, Ints]:
    """Return the lowest number, and how often each from there to the highest occurs.

    :param numbers: flat.
    :raises ValueError: if they range over more than 2^14, or one doesn't fit int32.
    """
    if not numbers.size:
        return 0, np.zeros(0, np.int64)
    low, high = int(numbers.min()), int(numbers.max())
    if high - low >= WIDEST or low < -(2**31) or high >= 2**31:
        raise ValueError(f"{Huffman.key}: numbers {low} to {high} range over more than {WIDEST}, or don't fit int32")

    counts = np.zeros(high - low + 1, np.int64)
    for start in range(0, numbers.size, _LOT):
        counts += np.bincount(_symbols(numbers[start : start + _LOT], low), minlength=len(counts))
    return low, counts


def _symbols(numbers: NDArray[Any], low: int) -> Ints:
    """Return numbers as places in the table of lengths."""
    symbols: Ints = numbers.astype(np.int64) - low
    return symbols


def _lengths_stream(low: int, lengths: Ints) -> Tensor:
    """Return the bytes of the table: the lowest number, then two lengths a byte, the first in the lower half."""
    if not len(lengths):
        return torch.zeros(0, dtype=torch.uint8)
    pairs = np.append(lengths, [0] * (len(lengths) % 2)).astype(np.uint8).reshape(-1, 2)
    return torch.cat([to_bytes(np.array([low], "<i4")), torch.from_numpy(pairs[:, 0] | pairs[:, 1] << 4)])


def _pack(numbers: NDArray[Any], low: int, lengths: Ints) -> tuple[NDArray[np.uint8], Ints]:
    """Return the codes of all numbers as bytes, and the bits of each block, ``(blocks,)``."""
    symbols, aligned, width = canonical(lengths)
    codes = np.zeros(len(lengths), np.int64)
    codes[symbols] = aligned >> (width - lengths[symbols])

    lots, blocks, bits = [], [], 0
    for start in range(0, numbers.size, _LOT):
        part = _symbols(numbers[start : start + _LOT], low)
        sizes = lengths[part]
        lots.append((bits // 8, _pack_lot(codes[part], sizes, bits % 8)))
        blocks.append(np.add.reduceat(sizes, np.arange(0, len(sizes), BLOCK)))
        bits += int(sizes.sum())

    data = np.zeros(-(-bits // 8), np.uint8)
    for offset, lot in lots:  # the byte in which one lot ends and the next begins has bits of both
        data[offset : offset + len(lot)] |= lot
    return data, np.concatenate(blocks)


def _pack_lot(codes: Ints, sizes: Ints, skip: int) -> NDArray[np.uint8]:
    """Return some codes one after the other as bytes.

    :param codes: ``(numbers,)``.
    :param sizes: bits of each.
    :param skip: bits of the first byte that stay free.
    """
    ends = skip + np.cumsum(sizes)
    begins = ends - sizes

    # A code starts at one of 8 bits and has at most 15: it lies in three bytes. The codes that start in one byte
    # share no bits, so their sum puts them together, and then no two words start in the same byte.
    words = codes << (24 - sizes - (begins & 7))
    first = np.flatnonzero(np.diff(begins >> 3, prepend=-1))
    words, places = np.add.reduceat(words, first), (begins >> 3)[first]

    data = np.zeros(-(-int(ends[-1]) // 8) + 2, np.uint8)
    for place, shift in enumerate((16, 8, 0)):
        data[places + place] |= (words >> shift).astype(np.uint8)
    return data[:-2]


def _unpack(data: NDArray[np.uint8], blocks: NDArray[np.uint16] | None, lengths: Ints, count: int) -> NDArray[np.int32]:
    """Return the symbols, ``(count,)``: the first of all blocks in the first step, the second in the next.

    :param blocks: bits of each block; ``None`` where there is only one.
    :raises ValueError: if the codes don't end where the blocks do.
    """
    lanes = -(-count // BLOCK)
    if (1 if blocks is None else len(blocks)) != lanes:
        raise ValueError(f"the lengths of {lanes} blocks are needed")
    ends = np.cumsum(blocks, dtype=np.int64) if blocks is not None else np.array([8 * data.size])

    # For whatever the next bits are, as many as the longest code has: the symbol that they begin with, and its length.
    symbols, _, width = canonical(lengths)
    entries = np.repeat(symbols << 4 | lengths[symbols], 1 << (width - lengths[symbols])).astype(np.int32)
    padded = np.append(data, np.zeros(3, np.uint8)).astype(np.int32)
    windows = padded[:-2] << 16 | padded[1:-1] << 8 | padded[2:]  # the 24 bits from each byte on

    at = np.append(0, ends[:-1])  # the bit at which each block goes on
    last = count - BLOCK * (lanes - 1)
    found = np.empty((min(count, BLOCK), lanes), np.int32)
    for step in range(len(found)):
        live = at if step < last else at[:-1]
        seen = windows.take(live >> 3) >> (24 - width - (live & 7)) & ((1 << width) - 1)
        entry = entries.take(seen)
        found[step, : len(live)] = entry
        live += entry & 15

    if -(-int(at[-1]) // 8) != data.size or (blocks is not None and not np.array_equal(at, ends)):
        raise ValueError("the codes don't end where they should")
    return (found.T.reshape(-1)[:count] >> 4).astype(np.int32)
