from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from condensery.nets import Coding
from condensery_plugins.codecs.huffman import Huffman

RoundTrip = Callable[[Coding, Tensor], Tensor]


def test_by_hand() -> None:
    """-1 five times, 0 twice, 1 and 2 once: codes 0, 10, 110, 111; 0 10 110 11 | 1 0 0 0 0 10 + 0."""
    numbers = torch.tensor([-1, 0, 1, 2, -1, -1, -1, -1, 0])
    streams = Huffman().encode(numbers)
    assert streams["lengths"].tolist() == [255, 255, 255, 255, 0x21, 0x33]
    assert streams["data"].tolist() == [0b01011011, 0b10000100]
    assert "blocks" not in streams
    assert Huffman().decode(streams, (9,)).tolist() == numbers.tolist()


def test_one_number_needs_no_data_and_none_needs_nothing() -> None:
    same = torch.full((5000,), -7)
    streams = Huffman().encode(same)
    assert {n: len(s) for n, s in streams.items()} == {"lengths": 5, "data": 0}
    assert torch.equal(Huffman().decode(streams, (5000,)), same.int())
    assert Huffman().cost(torch.zeros(0, dtype=torch.int32)).total == 0


def texts() -> dict[str, Tensor]:
    draw = np.random.default_rng(0)
    fibonacci = [1, 1]
    while len(fibonacci) < 24:
        fibonacci.append(fibonacci[-1] + fibonacci[-2])
    skewed = np.repeat(np.arange(24), fibonacci)
    draw.shuffle(skewed)
    return {
        "normal": torch.from_numpy((draw.normal(size=70_000) * 5).round().astype(np.int32)),
        "normal-wide": torch.from_numpy((draw.normal(size=70_000) * 900).round().astype(np.int32)),
        "uniform": torch.from_numpy(draw.integers(0, 16, 5000)),
        "full-range": torch.from_numpy(draw.permutation(2**14) - 2**13),
        "skewed-over-15-bits": torch.from_numpy(skewed),
        "rare-other": torch.tensor([0] * 100_000 + [9]),
        "full-blocks": torch.from_numpy(draw.integers(-2, 2, 3 * 1024)),
        "one-block": torch.from_numpy(draw.integers(-2, 2, 1024)),
        "two-symbols": torch.from_numpy(draw.integers(0, 2, 100_001)),
        "three-symbols": torch.from_numpy(draw.integers(-1, 2, 300_001)),
        "several-lots": torch.from_numpy(draw.geometric(0.4, 600_001).astype(np.int16)),
    }


@pytest.mark.parametrize("numbers", texts().values(), ids=list(texts()))
def test_texts_come_back_within_a_bit_of_the_entropy(numbers: Tensor, round_trip: RoundTrip) -> None:
    assert torch.equal(round_trip(Coding(Huffman()), numbers), numbers.int())
    counts = np.unique(numbers.numpy(), return_counts=True)[1]
    shares = counts / counts.sum()
    entropy = float(-(shares * np.log2(shares)).sum())
    cost = Huffman().cost(numbers)
    bits = 8 * cost.payload / len(numbers)
    assert entropy <= bits + 1e-9
    assert bits < entropy + 1 + 7 / len(numbers)  # up to seven bits fill the last byte
    blocks = -(-len(numbers) // 1024)
    symbols = int(numbers.max() - numbers.min()) + 1
    assert cost.tables == 4 + -(-symbols // 2) + (2 * blocks if blocks > 1 else 0)


def test_a_range_that_is_too_wide() -> None:
    with pytest.raises(ValueError, match="numbers 0 to 16384 range over more than 16384"):
        Huffman().encode(torch.tensor([0, 2**14]))
    with pytest.raises(ValueError, match="don't fit int32"):
        Huffman().cost(torch.tensor([2**31]))


@pytest.mark.parametrize("stream", ["lengths", "data", "blocks"])
def test_altered_bytes_give_other_numbers_or_an_error(stream: str) -> None:
    numbers = torch.from_numpy(np.random.default_rng(0).geometric(0.5, 3000))
    streams = Huffman().encode(numbers)
    for place in range(0, len(streams[stream]), max(len(streams[stream]) // 20, 1)):
        changed = streams[stream].clone()
        changed[place] ^= 0x55
        try:
            back = Huffman().decode({**streams, stream: changed}, (3000,))
        except (ValueError, IndexError):
            continue
        assert not torch.equal(back, numbers.int())
    with pytest.raises(ValueError, match="3 blocks"):
        Huffman().decode({n: s for n, s in streams.items() if n != "blocks"}, (3000,))
