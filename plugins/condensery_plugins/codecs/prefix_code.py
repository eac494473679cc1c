from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

LONGEST = 15
"""Bits of the longest code, so that a length fits 4 bits and a table of all prefixes stays small."""


def code_lengths(counts: Ints, longest: int = LONGEST) -> Ints:
    """Return the lengths of an optimal prefix code none of which is over a limit, 0 where a symbol doesn't occur.

    Package-merge (Larmore and Hirschberg, 1990): a symbol of length n is bought once in each of the n cheapest lists.

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
    bought = 2 * len(leaves) - 2
    for level in reversed(is_leaf):
        symbols = int(level[:bought].sum())
        lengths[ascending[:symbols]] += 1
        bought = 2 * (bought - symbols)
    return lengths


def canonical(lengths: Ints) -> tuple[Ints, Ints, int]:
    """Return the symbols by ascending code, their codes moved up to the width of the longest, and that width.

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
