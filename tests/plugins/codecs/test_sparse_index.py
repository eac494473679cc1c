from __future__ import annotations

import pytest
import torch

from condensery.nets import Coding
from condensery_plugins.codecs.sparse_index import SparseIndex


def test_the_figure_of_deep_compression() -> None:
    """Entries at 1, 4 and 15; in 3 bits the jump of 11 needs a filler at 12, a jump of 8 (stored as 7), then 3."""
    values = torch.zeros(16)
    values[[1, 4, 15]] = torch.tensor([3.4, 0.9, 1.7])
    codec = SparseIndex(3)
    streams = codec.encode(values)
    assert torch.equal(streams["values"], torch.tensor([3.4, 0.9, 0.0, 1.7]))
    assert streams["index"].tolist() == [1, 2, 7, 2]
    assert codec.entries(values) == 4
    assert torch.equal(codec.decode(streams, (16,)), values)
    assert Coding(codec).cost(values).total == 4 * 4 + 2  # four floats, four times 3 bits


def test_the_longest_jump_needs_no_filler() -> None:
    """With 2 bits: jumps of 4, of 5 = 4 + 1, of 8 = 4 + 4; twelve zeros at the end cost nothing."""
    values = torch.zeros(3 + 5 + 8 + 13, dtype=torch.int32)
    values[[3, 8, 16]] = torch.tensor([7, -2, 5], dtype=torch.int32)
    streams = SparseIndex(2).encode(values)
    assert streams["values"].tolist() == [7, 0, -2, 0, 5]
    assert streams["index"].tolist() == [3, 3, 0, 3, 3]


@pytest.mark.parametrize("density", [0.5, 0.1, 0.01, 0.0005])
def test_the_cheapest_width_and_the_count(density: float) -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(20_000, generator=generator) * (torch.rand(20_000, generator=generator) < density)
    costs = {b: len(SparseIndex(b).encode(values)["values"]) * (b + 4) for b in range(2, 17)}
    chosen = SparseIndex.cheapest(values, 4)
    assert costs[chosen.bits] == min(costs.values())
    assert chosen.entries(values) * (chosen.bits + 4) == costs[chosen.bits]


def test_what_cannot_be() -> None:
    with pytest.raises(ValueError, match="1 to 16"):
        SparseIndex(17)
    streams = {"values": torch.ones(2), "index": torch.tensor([3, 4], dtype=torch.int32)}
    assert SparseIndex(3).decode(streams, (9,)).nonzero().flatten().tolist() == [3, 8]
    with pytest.raises(ValueError, match="an entry at 8 of 8"):
        SparseIndex(3).decode(streams, (8,))
    with pytest.raises(ValueError, match="2 entries and 1 indices"):
        SparseIndex(3).decode({**streams, "index": torch.zeros(1, dtype=torch.int32)}, (9,))
