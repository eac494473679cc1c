"""The codings that transforms give: spelled out, exact after one round trip."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from condensery import Transform
from condensery.nets import BitPack, Coding, Dense, Stack, attach, stack_of
from condensery_plugins.codecs.entropy_coded import EntropyCoded
from condensery_plugins.codecs.huffman import Huffman
from condensery_plugins.codecs.palette import Palette
from condensery_plugins.codecs.sparse import sparse
from condensery_plugins.codecs.sparse_index import SparseIndex
from condensery_plugins.joint.qkd import IntervalQuantizer
from condensery_plugins.pruning.masks import Mask
from condensery_plugins.quantization.lsq import LearnedStep

RoundTrip = Callable[[Coding, Tensor], Tensor]
SHAPE = (200, 100)


def weight() -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(0)) / 10


def mask(density: float, index_bits: int | None = None) -> Mask:
    made = Mask(SHAPE, index_bits)
    made.keep.copy_(torch.rand(SHAPE, generator=torch.Generator().manual_seed(1)) < density)
    return made


def started(quantizer: LearnedStep | IntervalQuantizer) -> Transform:
    return quantizer.start(weight())


def coded(*transforms: Transform) -> tuple[Coding, Tensor]:
    """The coding of a layer's weight with these transforms, and the value that the layer uses."""
    layer = nn.Linear(SHAPE[1], SHAPE[0])
    with torch.no_grad():
        layer.weight.copy_(weight())
    for place, transform in enumerate(transforms):
        attach(layer, "weight", str(place), transform)
    final = layer.weight.detach()
    stack = stack_of(layer, "weight")
    assert isinstance(stack, Stack)
    coding = Coding(Dense.of(final))
    for item in stack.transforms.values():
        assert isinstance(item, Transform)
        coding = item.code(coding, final)
    return coding, final


@pytest.mark.parametrize(
    ("transforms", "spelled"),
    [
        ([started(LearnedStep(4))], "affine(4) | bitpack(4)"),
        ([started(LearnedStep(2, signed=False))], "affine(2) | bitpack(2)"),
        ([mask(0.1)], "sparse-index(6) | float32"),
        ([mask(0.5)], "bitmap | float32"),
        ([mask(0.99)], "float32"),
        ([mask(0.1, index_bits=3)], "sparse-index(3) | float32"),
        ([mask(0.99, index_bits=2)], "sparse-index(2) | float32"),
        ([mask(0.1), started(LearnedStep(4))], "affine(4) | sparse-index(5) | bitpack(4)"),
        ([mask(0.6), started(LearnedStep(4))], "affine(4) | bitmap | bitpack(4)"),
        ([started(IntervalQuantizer(4))], "affine(4) | bitpack(4)"),
        ([started(IntervalQuantizer(3, signed=False))], "affine(3) | bitpack(3)"),
        ([started(IntervalQuantizer(4)), mask(0.1)], "affine(4) | sparse-index(5) | bitpack(4)"),
        ([EntropyCoded(), started(LearnedStep(4))], "affine(4) | huffman"),
    ],
)
def test_spelled_and_exact(transforms: list[Transform], spelled: str, round_trip: RoundTrip) -> None:
    coding, final = coded(*transforms)
    assert coding.spelled() == spelled
    baked = round_trip(coding, final)
    assert torch.allclose(baked, final, rtol=1e-6, atol=0)
    assert torch.equal(baked == 0, final == 0)
    again = round_trip(coding, baked)
    assert torch.equal(again.view(torch.int32), baked.view(torch.int32))


def test_the_grid_of_lsq_is_stored_bit_by_bit(round_trip: RoundTrip) -> None:
    coding, final = coded(started(LearnedStep(4)), mask(0.3))
    assert torch.equal(round_trip(coding, final), final)


def test_the_width_of_the_index_is_kept_with_the_mask() -> None:
    assert mask(0.1).config() == {"shape": [200, 100]}
    assert mask(0.1, index_bits=5).config() == {"shape": [200, 100], "index_bits": 5}
    assert Mask(**mask(0.1, index_bits=5).config()).index_bits == 5


def test_sparse_takes_the_cheapest() -> None:
    """Against the costs of all widths, the bitmap and no sparse codec, spelled out here."""
    for density in (0.02, 0.2, 0.5, 0.9):
        final = torch.where(mask(density).keep, weight(), 0)
        chosen = sparse(Coding(Dense()), final).cost(final).total
        entries = int((final != 0).sum())
        bitmap = 4 * entries + -(-final.numel() // 8)
        relative = [4 * n + -(-n * b // 8) for b in range(2, 17) for n in [SparseIndex(b).entries(final)]]
        assert chosen == min(4 * final.numel(), bitmap, *relative)


def test_the_chain_of_deep_compression(round_trip: RoundTrip) -> None:
    """Shared values, relative indices, and Huffman codes for both; the tables are counted."""
    final = torch.where(mask(0.08).keep, (weight() * 20).round() / 20, 0)
    plain = sparse(Coding(Palette(final)), final, index_bits=5)
    coding = EntropyCoded().code(plain, final)
    assert coding.spelled() == "palette | sparse-index(5) | huffman"
    assert coding.part("codes").part("index").spelled() == "huffman"
    assert coding.part("codebook").spelled() == "float32"
    assert torch.equal(round_trip(coding, final), final)
    assert coding.cost(final).total < plain.cost(final).total
    assert coding.cost(final).tables > plain.cost(final).tables == 4 * len(torch.unique(final))


def test_entropy_coding_never_costs_more() -> None:
    """Sixteen equally frequent numbers: packing takes as many bits and no table; 15 bits are never tried."""
    even = torch.arange(16).repeat(100)
    assert EntropyCoded().code(Coding(BitPack(4)), even).spelled() == "bitpack(4)"
    assert EntropyCoded().code(Coding(BitPack(15)), torch.zeros(9, dtype=torch.int32)).spelled() == "bitpack(15)"
    rare = torch.tensor([0] * 1000 + [15])
    assert EntropyCoded().code(Coding(BitPack(4)), rare).spelled() == "huffman"
    assert Huffman().cost(rare).total < BitPack(4).cost(rare).total
    value = torch.randn(3)
    assert EntropyCoded()(value) is value
