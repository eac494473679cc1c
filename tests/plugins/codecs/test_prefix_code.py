from __future__ import annotations

import heapq
import itertools

import numpy as np
import pytest

from condensery_plugins.codecs.prefix_code import canonical, code_lengths


def test_without_a_limit_in_reach() -> None:
    """5, 2, 1, 1: join 1 + 1, then 2 + 2, then 5 + 4."""
    assert code_lengths(np.array([5, 2, 1, 1])).tolist() == [1, 2, 3, 3]
    assert code_lengths(np.array([0, 0, 9, 0])).tolist() == [0, 0, 1, 0]
    assert code_lengths(np.array([], np.int64)).tolist() == []


def test_with_a_limit() -> None:
    """1, 1, 2, 4, 8 take 4, 4, 3, 2, 1; with 3 bits at most 3, 3, 3, 3, 1 cost 32 and 3, 3, 2, 2, 2 cost 34."""
    counts = np.array([1, 1, 2, 4, 8])
    assert code_lengths(counts).tolist() == [4, 4, 3, 2, 1]
    assert code_lengths(counts, 3).tolist() == [3, 3, 3, 3, 1]
    with pytest.raises(ValueError, match="5 symbols don't have codes of 2 bits"):
        code_lengths(counts, 2)


@pytest.mark.parametrize("seed", range(5))
def test_no_other_lengths_cost_less(seed: int) -> None:
    """Among all lengths up to 4 that Kraft's inequality allows."""
    counts = np.random.default_rng(seed).geometric(0.1, 6) ** 2
    best = min(
        int(counts @ lengths)
        for lengths in itertools.product(range(1, 5), repeat=6)
        if sum(2.0**-n for n in lengths) <= 1
    )
    assert int(counts @ code_lengths(counts, 4)) == best


@pytest.mark.parametrize("symbols", [2, 3, 100, 4000])
def test_as_short_as_huffmans_own_procedure(symbols: int) -> None:
    """Joining the two rarest until one is left: the sum of all joins is the length of the text."""
    counts = np.random.default_rng(symbols).integers(300, 1000, symbols)  # alike enough for codes under 16 bits
    heap, total = [int(c) for c in counts], 0
    heapq.heapify(heap)
    while len(heap) > 1:
        joined = heapq.heappop(heap) + heapq.heappop(heap)
        total += joined
        heapq.heappush(heap, joined)
    assert int(counts @ code_lengths(counts)) == total


def test_skew_beyond_the_limit() -> None:
    """Fibonacci counts of 30 symbols would take 29 bits."""
    counts = [1, 1]
    while len(counts) < 30:
        counts.append(counts[-1] + counts[-2])
    lengths = code_lengths(np.array(counts))
    assert lengths.max() == 15
    assert sum(2.0 ** -int(n) for n in lengths) == 1


def test_canonical_codes() -> None:
    """Lengths 2, 1, 3, 3: symbol 1 has 0, symbol 0 has 10, then 110 and 111; moved up to 3 bits."""
    symbols, codes, width = canonical(np.array([2, 1, 3, 3, 0]))
    assert symbols.tolist() == [1, 0, 2, 3]
    assert [f"{c:03b}" for c in codes] == ["000", "100", "110", "111"]
    assert width == 3
    for wrong in ([1, 2], [1, 1, 1], [0], []):
        with pytest.raises(ValueError, match="not those of a Huffman code"):
            canonical(np.array(wrong, np.int64))
