from __future__ import annotations

import numpy as np
import pytest
import torch

from condensery.nets import BitPack


def test_by_hand() -> None:
    """5, 1, 6 in three bits, the first lowest: 101 + 001 << 3 + 110 << 6 = 5 + 8 + 384 = 397 = 141 + 256."""
    packed = BitPack(3).encode(torch.tensor([5, 1, 6]))["data"]
    assert packed.tolist() == [141, 1]
    assert BitPack(3).decode({"data": packed}, (3,)).tolist() == [5, 1, 6]


@pytest.mark.parametrize("bits", range(32))
@pytest.mark.parametrize("count", [0, 1, 8, 13, 2**18 + 9])
def test_every_width_against_the_bits_spelled_out(bits: int, count: int) -> None:
    low = -(2**bits) // 2
    numbers = np.random.default_rng(bits).integers(0, 2**bits, min(count, 5000) if bits > 9 else count)
    codec = BitPack(bits, low)
    data = codec.encode(torch.from_numpy(numbers + low))["data"]
    spelled = (numbers[:, None] >> np.arange(bits) & 1).astype(np.uint8)
    assert np.array_equal(data.numpy(), np.packbits(spelled, bitorder="little"))
    assert codec.cost(torch.from_numpy(numbers)).total == len(data)
    back = codec.decode({"data": data}, numbers.shape)
    assert back.dtype == torch.int32
    assert np.array_equal(back.numpy(), numbers + low)


def test_narrow_types_do_not_overflow() -> None:
    numbers = torch.tensor([-128, 127], dtype=torch.int8)
    codec = BitPack.of(numbers)
    assert (codec.bits, codec.low) == (8, -128)
    assert codec.decode(codec.encode(numbers), (2,)).tolist() == [-128, 127]


def test_numbers_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="numbers 0 to 8 don't fit 3 bits from 0"):
        BitPack(3).encode(torch.tensor([0, 8]))
    with pytest.raises(ValueError, match="numbers -1 to 0 don't fit 3 bits from 0"):
        BitPack(3).encode(torch.tensor([0, -1]))
    with pytest.raises(ValueError, match="don't fit"):
        BitPack(4, 2**31 - 4).encode(torch.tensor([2**31]))
    with pytest.raises(ValueError, match=r"torch\.float32 are not whole numbers"):
        BitPack(3).encode(torch.tensor([1.0]))
    with pytest.raises(ValueError, match="3 bytes for 3 numbers of 3 bits"):
        BitPack(3).decode({"data": torch.zeros(3, dtype=torch.uint8)}, (3,))
