"""Streams of prefix codes: written many symbols to a word, read many blocks side by side and many symbols at once."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from condensery.nets import joined
from condensery_plugins.codecs.prefix_code import Ints, canonical

BLOCK = 1024
"""Symbols whose length in bits is written down, so that blocks can be read side by side."""
LOT = 256 * BLOCK
"""Symbols written at once: so few that what is worked out of them stays in the processor's cache."""
_MOST = 16
"""Symbols that are put together before they are placed: a divisor of the block."""
_LANES = 8192
"""Blocks read side by side, for the same reason."""
_WINDOW = 13
"""Bits looked up at once where a code isn't longer."""


class Tuples:
    """Symbols as places in tables: two, four or eight neighbours together where such tables stay small.

    :param low: the lowest number, which is symbol 0.
    :param symbols: how many there may be, up to 2^14.
    :param count: of the numbers that will be seen; for few, large tables don't pay.
    """

    def __init__(self, low: int, symbols: int, count: int) -> None:
        self.bits = max((symbols - 1).bit_length(), 1)
        self.kind = np.dtype(np.uint8 if self.bits <= 8 else np.uint16)
        self.lowest, self.low = low, self.kind.type(low % 2 ** (8 * self.kind.itemsize))
        self.doublings = 0
        while self.doublings < 3 and (wide := self.bits << (self.doublings + 1)) <= 16 and 2**wide <= count:
            self.doublings += 1

    @property
    def length(self) -> int:
        """How many symbols are in one."""
        return 1 << self.doublings

    def of(self, numbers: NDArray[Any]) -> NDArray[Any]:
        """Return the tuples of some numbers, the first symbol in the lowest bits.

        :param numbers: flat, as many as full tuples take.
        """
        found: NDArray[Any] = numbers.astype(self.kind) - self.low
        for times in range(self.doublings):
            found = joined(found, self.bits << times)
        return found

    def counts(self, numbers: NDArray[Any]) -> Ints:
        """Return how often each symbol occurs, ``(2^bits,)``."""
        full = len(numbers) // self.length * self.length
        found = np.zeros(1 << (self.bits * self.length), np.int64)
        for start in range(0, full, LOT):
            found += np.bincount(self.of(numbers[start : min(start + LOT, full)]), minlength=len(found))

        # Of a table of pairs, each symbol stands in its row's sum and in its column's.
        for times in reversed(range(self.doublings)):
            pairs = found.reshape(1 << (self.bits << times), -1)
            found = pairs.sum(0) + pairs.sum(1)
        rest = numbers[full:].astype(self.kind) - self.low
        return found + np.bincount(rest, minlength=len(found))

    def tables(self, codes: Ints, sizes: Ints) -> tuple[NDArray[np.uint64], NDArray[np.uint8]]:
        """Return the code of each tuple, the first symbol's bits highest, and how many bits it has.

        :param codes: of each symbol, at most 15 bits, ``(symbols,)``.
        :param sizes: bits of each, 0 for a symbol that doesn't occur.
        """
        code, size = np.zeros(1 << self.bits, np.uint64), np.zeros(1 << self.bits, np.uint8)
        code[: len(codes)], size[: len(sizes)] = codes, sizes
        for _ in range(self.doublings):
            code = (code << size[:, None] | code[:, None]).reshape(-1)
            size = (size + size[:, None]).reshape(-1)
        return code, size


def write(numbers: NDArray[Any], tuples: Tuples, lengths: Ints, bits: int) -> tuple[NDArray[np.uint8], Ints]:
    """Return the codes of all numbers as bytes, first bit highest, and the bits of each block, ``(blocks,)``.

    :param lengths: of each symbol's code, ``(symbols,)``; symbol 0 has one.
    :param bits: of all codes together.
    """
    symbols, aligned, width = canonical(lengths)
    codes = np.zeros(len(lengths), np.int64)
    codes[symbols] = aligned >> (width - lengths[symbols])
    code, size = tuples.tables(codes, lengths)

    stream = np.zeros(bits // 64 + 8, np.uint64)
    blocks, done = [], 0
    for start in range(0, len(numbers), LOT):
        part = numbers[start : start + LOT]
        missing = -len(part) % _MOST
        if missing:
            part = np.append(part, np.full(missing, tuples.lowest, part.dtype))
        places = tuples.of(part)
        words, sizes = code.take(places), size.take(places)

        # Neighbours become one word of up to 64 bits, so that there are few words to place.
        each = tuples.length
        while each < _MOST and (longer := sizes[::2] + sizes[1::2]).max() <= 64:
            words = words[::2] << sizes[1::2] | words[1::2]
            sizes, each = longer, 2 * each
        blocks.append(np.add.reduceat(sizes, np.arange(0, len(sizes), BLOCK // each), dtype=np.int64))
        done += _place(stream, done, words, sizes)

    # What filled up the last lot is taken off again.
    blocks[-1][-1] -= missing * int(lengths[0])
    data = stream.byteswap().view(np.uint8)[: -(-bits // 8)]
    if bits % 8:
        data[-1] &= np.uint8(256 - (1 << (8 - bits % 8)))
    return data, np.concatenate(blocks)


def _place(stream: NDArray[np.uint64], at: int, words: NDArray[np.uint64], sizes: NDArray[np.uint8]) -> int:
    """Put words one after the other into a stream, first bit highest; returns how many bits they have.

    :param at: the bit of the stream at which the first begins.
    :param words: of up to 64 bits each, in their lowest ones.
    :param sizes: how many bits.
    """
    ends = at % 64 + np.cumsum(sizes, dtype=np.int64)
    begins = ends - sizes
    shift = (begins & 63).astype(np.uint64)
    words = words << (64 - sizes)

    # Of the words that begin in one place of the stream, only the last can reach into the next, and none goes further.
    first = np.flatnonzero(np.diff(begins >> 6, prepend=-1))
    last = np.append(first[1:], len(words)) - 1
    here = stream[at // 64 :]
    here[: len(first)] |= np.bitwise_or.reduceat(words >> shift, first)
    here[1 : len(first) + 1] |= words[last] << np.uint64(1) << (np.uint64(63) - shift[last])
    return int(ends[-1]) - at % 64


def read(data: NDArray[np.uint8], blocks: NDArray[Any] | None, lengths: Ints, count: int) -> NDArray[Any]:
    """Return the symbols, ``(count,)``, of 8 or 16 bits.

    :param blocks: bits of each block; ``None`` where there is only one.
    :param lengths: of each symbol's code, ``(symbols,)``.
    :raises ValueError: if the codes don't end where the blocks do.
    """
    needed = -(-count // BLOCK)
    if (1 if blocks is None else len(blocks)) != needed:
        raise ValueError(f"the lengths of {needed} blocks are needed")
    ends = np.array([8 * data.size]) if blocks is None else np.cumsum(blocks, dtype=np.int64)
    limits = np.full(needed, BLOCK)
    limits[-1] = count - BLOCK * (needed - 1)

    lookup = _Lookup(lengths, count)
    begins = np.append(0, ends[:-1])
    padded = np.append(data, np.zeros(8, np.uint8))
    found = np.empty((needed, BLOCK), lookup.kind)
    if -(-int(ends[-1]) // 8) == data.size:
        for start in range(0, needed, _LANES):
            lot = slice(start, start + _LANES)
            begins[lot] = lookup.read(padded, begins[lot], limits[lot], found[lot])

    # Each block has been read from its begin to its end; without their lengths, only the last byte is known.
    if -(-int(begins[-1]) // 8) != data.size or (blocks is not None and not np.array_equal(begins, ends)):
        raise ValueError("the codes don't end where they should")
    return found.reshape(-1)[:count]


class _Lookup:
    """For whatever the next bits are: the symbols that they begin with, how many these are, and their bits.

    :param count: of the symbols to be read; for few, a large table doesn't pay.
    """

    def __init__(self, lengths: Ints, count: int) -> None:
        symbols, _, width = canonical(lengths)
        shares = 1 << (width - lengths[symbols])
        self.width = width
        self.symbol = np.repeat(symbols, shares)
        self.size = np.repeat(lengths[symbols], shares)

        self.kind = np.dtype(np.uint8 if len(lengths) <= 256 else np.uint16)
        self.most = 8 // self.kind.itemsize
        self.window = max(width, _WINDOW if count >= 2**_WINDOW else 0)

        # Symbols are looked up one after the other in what the window has left, as long as a whole one is there.
        window = np.arange(1 << self.window)
        bits, counts = np.zeros(len(window), np.int64), np.zeros(len(window), np.int64)
        words = np.zeros((len(window), self.most), self.kind)
        for place in range(self.most):
            seen = window << bits & (len(window) - 1)
            seen = seen >> (self.window - width)
            fits = bits + self.size[seen] <= self.window
            words[:, place] = np.where(fits, self.symbol[seen], 0)
            bits += self.size[seen] * fits
            counts += fits
            # One that doesn't fit leaves its bits there: all that follow don't fit either.
        self.words, self.bits, self.counts = words.view(np.uint64).reshape(-1), bits, counts

    def read(self, data: NDArray[np.uint8], begins: Ints, limits: Ints, out: NDArray[Any]) -> Ints:
        """Read some blocks side by side; returns the bit after the last symbol of each.

        :param data: the codes, and eight bytes more.
        :param begins: the bit at which each block begins, ascending, ``(blocks,)``.
        :param limits: how many symbols it has.
        :param out: ``(blocks, 1024)``, filled.
        """
        # A look-up writes all symbols that there may be; those that were none are written over by the next one, and
        # each row is longer than a block by as many. The rows are written at any place, eight bytes at once.
        at, lanes, each = begins.copy(), len(begins), 57 // self.window
        stride = BLOCK + self.most
        rows = np.empty((lanes, stride), self.kind)
        put = as_strided(rows.view(np.uint64), (rows.size - self.most + 1,), (rows.itemsize,))
        first = np.arange(lanes) * stride
        done = np.zeros(lanes, np.int64)

        while len(live := np.flatnonzero(done <= limits - each * self.most)):
            now, place = at[live], first[live] + done[live]
            for _ in range(max(int((limits - done)[live].min()) // (each * self.most), 1)):
                ahead = _ahead(data, now)
                for _ in range(each):
                    seen = (ahead >> np.uint64(64 - self.window)).view(np.int64)
                    put[place] = self.words.take(seen)
                    used = self.bits.take(seen)
                    ahead <<= used.view(np.uint64)
                    now += used
                    place += self.counts.take(seen)
            at[live], done[live] = now, place - first[live]

        # Fewer are left than the look-ups may give: one after the other.
        while len(live := np.flatnonzero(done < limits)):
            seen = (_ahead(data, at[live]) >> np.uint64(64 - self.width)).view(np.int64)
            rows.reshape(-1)[first[live] + done[live]] = self.symbol.take(seen)
            at[live] += self.size.take(seen)
            done[live] += 1

        out[:] = rows[:, :BLOCK]
        return at


def _ahead(data: NDArray[np.uint8], at: Ints) -> NDArray[np.uint64]:
    """Return the next bits at some places, 57 of them or more, the next one highest; beyond the end other ones.

    :param data: with eight bytes more than there is to see.
    """
    everywhere = as_strided(data[:8].view(np.uint64), (len(data) - 7,), (1,))
    there: NDArray[np.uint64] = everywhere[np.minimum(at >> 3, len(everywhere) - 1)].byteswap(inplace=True)
    there <<= (at & 7).view(np.uint64)
    return there
