"""What every registered codec must do."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from condensery import Registry
from condensery.errors import ArtifactError
from condensery.nets import BitPack, Branch, Codec, Coding, Dense, Leaf
from condensery.storage import Source, codec_of, decode
from condensery_plugins.codecs.affine import Affine
from condensery_plugins.codecs.binary_basis import BinaryBasis
from condensery_plugins.codecs.bitmap import Bitmap
from condensery_plugins.codecs.codebooks import ProductCodebook, ResidualCodebook
from condensery_plugins.codecs.huffman import Huffman
from condensery_plugins.codecs.moved import Moved
from condensery_plugins.codecs.offset import Offset
from condensery_plugins.codecs.palette import Palette
from condensery_plugins.codecs.signs import Signs
from condensery_plugins.codecs.sparse_index import SparseIndex
from condensery_plugins.codecs.ternary import Ternary


def product(base: Tensor) -> tuple[Leaf | Branch, Tensor]:
    rows = base.shape[0] if base.dim() > 1 else 1
    return ProductCodebook(torch.arange(-3.0, 5).flip(0).view(1, 8, 1).repeat(base.numel() // rows, 1, 1)), base.float()


def residual(base: Tensor) -> tuple[Leaf | Branch, Tensor]:
    return ResidualCodebook(torch.tensor([[-3.0, 0, 3], [1.0, 0, -1]]).unsqueeze(2)), base.float()


CASES: dict[str, Callable[[Tensor], tuple[Leaf | Branch, Tensor]]] = {
    "affine": lambda base: (Affine(4, torch.tensor(0.1)), base * torch.tensor(0.1)),
    "binary-basis": lambda base: (BinaryBasis(torch.tensor([1.0, 2.0]), zeros=True), base.float().clamp(-1, 1) * 3),
    "bitmap": lambda base: (Bitmap(), base / 3),
    "bitpack": lambda base: (BitPack.of(base), base),
    "dense": lambda base: (Dense("float16"), (base / 3).half()),
    "huffman": lambda base: (Huffman(), base),
    "moved": lambda base: (Moved(0) if base.dim() else Dense("float32"), base.float()),
    "offset": lambda base: (Offset(3), base),
    "palette": lambda base: (Palette(base / 3), base / 3),
    "product-codebook": product,
    "residual-codebook": residual,
    "signs": lambda base: (Signs(), torch.where(base >= 0, 1, -1).to(base.dtype)),
    "sparse-index": lambda base: (SparseIndex(2), base / 3),
    "ternary": lambda base: (Ternary(), base.sign()),
}
"""By key: a codec and values it stores exactly, from whole numbers between -3 and 4."""
SHAPES: list[tuple[int, ...]] = [(), (0,), (3, 0), (1,), (7,), (4, 3, 2, 2), (40, 60)]
FILLS = ("random", "zero", "equal")


def filled(shape: tuple[int, ...], fill: str) -> Tensor:
    generator = torch.Generator().manual_seed(len(shape))
    if fill != "random":
        return torch.full(shape, 0 if fill == "zero" else 3, dtype=torch.int32)
    numbers = torch.randint(-3, 5, shape, dtype=torch.int32, generator=generator)
    numbers *= torch.rand(shape, generator=generator) < 0.3
    numbers.view(-1)[-1:] = 4  # not all zero, however small
    return numbers


def leaves(record: dict[str, Any]) -> Iterator[tuple[dict[str, int], str]]:
    """Yield the lengths of the bytes and a name in them, in the order of the bytes."""
    for name in record.get("bytes", {}):
        yield record["bytes"], name
    for part in record.get("parts", {}).values():
        yield from leaves(part)


def test_every_codec_has_a_case(registry: Registry) -> None:
    assert sorted(CASES) == registry.keys("codecs")


@pytest.mark.parametrize("key", CASES)
def test_a_codec_is_a_leaf_of_bytes_or_a_branch_with_parts(key: str) -> None:
    codec, values = CASES[key](filled((4, 3), "random"))
    streams = codec.encode(values)
    assert isinstance(codec, Leaf) != isinstance(codec, Branch)
    if isinstance(codec, Branch):
        assert codec.parts().keys() == streams.keys()
        assert codec.main in streams
    else:
        assert {s.dtype for s in streams.values()} == {torch.uint8}


def test_a_leaf_without_a_cost_and_a_branch_without_parts_are_not_whole() -> None:
    class Half(Codec):
        def encode(self, values: Tensor) -> dict[str, Tensor]:
            return {"data": values}

        def decode(self, streams: Mapping[str, Tensor], shape: Sequence[int]) -> Tensor:
            return streams["data"]

    for base, missing in ((Leaf, "cost"), (Branch, "parts")):
        with pytest.raises(TypeError, match=f"abstract method '?{missing}"):
            type("Whole", (Half, base), {})()


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("key", CASES)
def test_round_trip_and_cost(
    key: str, shape: tuple[int, ...], fill: str, round_trip: Callable[[Coding, Tensor], Tensor]
) -> None:
    codec, values = CASES[key](filled(shape, fill))
    back = round_trip(Coding(codec), values)
    assert back.shape == values.shape
    assert back.dtype == values.dtype
    assert torch.equal(back, values)


@pytest.mark.parametrize("key", CASES)
def test_the_codec_is_built_from_json(key: str, registry: Registry) -> None:
    codec, values = CASES[key](filled((4, 3), "random"))
    record = json.loads(json.dumps(Coding(codec).encode(values)[0]))
    built = codec_of(record, registry, "test")
    assert type(built) is type(codec)
    assert built.config() == codec.config()
    assert built.spelled() == codec.spelled()
    assert torch.equal(built.decode(codec.encode(values), values.shape), values)


@pytest.mark.parametrize("shape", [(7,), (40, 60)], ids=str)
@pytest.mark.parametrize("key", CASES)
def test_truncated_bytes_are_refused(key: str, shape: tuple[int, ...], registry: Registry) -> None:
    """Cut at the end, or in any stream with a record that agrees with the shorter bytes."""
    codec, values = CASES[key](filled(shape, "random"))
    record, data = Coding(codec).encode(values)
    with pytest.raises(ArtifactError, match="test: "):
        decode(record, Source(torch.cat(data)[:-1], "test"), registry)
    assert len(data) == len(list(leaves(record)))
    for place in range(len(data)):
        shorter = json.loads(json.dumps(record))
        lengths, name = list(leaves(shorter))[place]
        lengths[name] -= 1
        cut = [*data[:place], data[place][:-1], *data[place + 1 :]]
        with pytest.raises(ArtifactError, match="test: "):
            decode(shorter, Source(torch.cat(cut), "test"), registry)


@pytest.mark.parametrize("key", ["bitpack", "huffman", "ternary"])
def test_leaves_of_whole_numbers_refuse_floats(key: str) -> None:
    codec, _ = CASES[key](torch.zeros(1, dtype=torch.int32))
    with pytest.raises(ValueError, match=r"torch\.float32 are not whole numbers"):
        codec.encode(torch.tensor([0.5]))
