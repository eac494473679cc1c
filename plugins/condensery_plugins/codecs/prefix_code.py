from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

LONGEST = 15
"""Bits of the longest code, so that a length fits 4 bits and a table of all prefixes stays small."""


def code_lengths(counts: Ints, longest: int = LONGEST) -> Ints:
    """Return the lengths of an optimal prefix code none of which is over a limit, 0 where a symbol doesn't occur.

    Package-merge (Larmore and Hirschberg, 1990). A list begins as the symbols by rising count. The next one merges
    the symbols with pairs of neighbours in the list before, at their joint price; there are as many lists as the
    longest code has bits. The cheapest 2n - 2 items of the last list are bought, with all that they are made of: a
    symbol's length is the number of times that it is bought.

    :param counts: of each symbol, ``(symbols,)``; the lengths have that shape too.
    :param longest: bits of the longest code.
    :raises ValueError: if there are more symbols than such codes.
    """
    used = np.flatnonzero(counts)
    lengths = np.zeros(len(counts), np.int64)
    if len(used) < 2:
        lengths[used] = 1
        return lengths
    if len(used) > 2**longest:
        raise ValueError(f"{len(used)} symbols don't have codes of {longest} bits")

    ascending = used[np.argsort(counts[used], kind="stable")]
    leaves = counts[ascending]
    prices, is_leaf = leaves, [np.ones(len(leaves), np.bool_)]
    for _ in range(longest - 1):
        packages = prices[: len(prices) // 2 * 2].reshape(-1, 2).sum(1)
        merged = np.concatenate([leaves, packages])
        order = np.argsort(merged, kind="stable")
        prices = merged[order]
        is_leaf.append(order < len(leaves))

    # Backwards: of the cheapest items in a list some are symbols, the others pairs, bought in the list before.
    bought = 2 * len(leaves) - 2
    for level in reversed(is_leaf):
        symbols = int(level[:bought].sum())
        lengths[ascending[:symbols]] += 1
        bought = 2 * (bought - symbols)
    return lengths


def canonical(lengths: Ints) -> tuple[Ints, Ints, int]:
    """Return the symbols by ascending code, their codes moved up to the width of the longest, and that width.

    Codes ascend with length, then with the symbol.

    :param lengths: of each symbol's code, ``(symbols,)``, 0 where it has none.
    :returns: both arrays of shape ``(symbols with a code,)``.
    :raises ValueError: if the lengths are not those of a complete prefix code.
    """
    used = np.flatnonzero(lengths)
    symbols = used[np.argsort(lengths[used], kind="stable")]
    width = int(lengths.max(initial=0))
    shares = 1 << (width - lengths[symbols])
    ends = np.cumsum(shares)
    if not len(symbols) or ends[-1] != 1 << width:
        raise ValueError("the lengths are not those of a Huffman code")
    return symbols, ends - shares, width
