from __future__ import annotations

import pytest
import torch

from condensery.nets import BitPack, Coding, Cost
from condensery_plugins.codecs.affine import Affine


def packed(codec: Affine) -> tuple[int, int]:
    leaf = codec.parts()["codes"].codec
    assert isinstance(leaf, BitPack)
    return leaf.bits, leaf.low


def test_one_scale() -> None:
    values = torch.tensor([-2.0, 0.0, 0.5, 1.75])
    codec = Affine(4, torch.tensor(0.25))
    assert codec.encode(values)["codes"].tolist() == [-8, 0, 2, 7]
    assert packed(codec) == (4, -8)
    assert Coding(codec).cost(values) == Cost(payload=2, tables=4)


def test_a_scale_for_each_channel() -> None:
    """A channel that is all zero may have the scale zero."""
    values = torch.tensor([[1.0, -2.0], [0.75, 0.5], [0.0, 0.0]]).view(3, 1, 1, 2)
    scale = torch.tensor([1.0, 0.25, 0.0]).view(3, 1, 1, 1)
    codec = Affine(3, scale)
    streams = codec.encode(values)
    assert streams["codes"].flatten().tolist() == [1, -2, 3, 2, 0, 0]
    assert torch.equal(codec.decode(streams, (3, 1, 1, 2)), values)
    with pytest.raises(ValueError, match="inf steps"):
        codec.encode(torch.ones(3, 1, 1, 2))


def test_a_scale_for_each_group_of_a_row() -> None:
    """Rows of three by groups of two: the second group of a row has one entry."""
    values = torch.tensor([[1.0, 2.0, 4.0], [0.5, 1.0, 9.0]])
    codec = Affine(3, torch.tensor([[1.0, 4.0], [0.5, 3.0]]), group=2)
    streams = codec.encode(values)
    assert streams["codes"].tolist() == [[1, 2, 1], [1, 2, 3]]
    assert torch.equal(Affine(3, group=2).decode(streams, (2, 3)), values)
    assert codec.config() == {"bits": 3, "group": 2}
    with pytest.raises(ValueError, match=r"scales \(2, 2\), 2 rows of 5 by 2"):
        codec.encode(torch.zeros(2, 5))


def test_a_zero_point_moves_the_codes() -> None:
    """Levels q = 0..3 with zero at 1 and scale 0.5: values -0.5, 0, 0.5, 1 by codes -1..2."""
    codec = Affine(2, torch.tensor(0.5), zero=1)
    assert codec.encode(torch.tensor([-0.5, 0.0, 0.5, 1.0]))["codes"].tolist() == [-1, 0, 1, 2]
    assert packed(codec) == (2, -1)
    assert packed(Affine(2, torch.tensor(0.5), zero=0)) == (2, 0)
    by_channel = Affine(2, torch.ones(2, 1), zero=torch.tensor([[0], [3]]))
    assert packed(by_channel) == (3, -3)  # codes 0..3 and -3..0


def test_values_off_the_grid_are_refused() -> None:
    codec = Affine(8, torch.tensor(0.5))
    assert codec.encode(torch.tensor([10.0004]))["codes"].tolist() == [20]
    with pytest.raises(ValueError, match=r"0\.002 of a step off the grid"):
        codec.encode(torch.tensor([10.001]))
    for value, said in ((float("nan"), "off the grid"), (float("inf"), "no such grid"), (1e9, "no such grid")):
        with pytest.raises(ValueError, match=said):
            codec.encode(torch.tensor([value]))
    with pytest.raises(ValueError, match=r"a scale of shape \(1,\) for a tensor of \(\)"):
        Affine(8, torch.ones(1)).encode(torch.tensor(1.0))
    with pytest.raises(ValueError, match="only decodes"):
        Affine(8).encode(torch.tensor(1.0))


@pytest.mark.parametrize("scale", [0.1, 1 / 3, 7.77e-6, 12345.678])
def test_sixteen_bits_find_their_codes_again(scale: float) -> None:
    """Decoding is the float32 product, so values made that way come back bit by bit."""
    codes = torch.arange(-(2**15), 2**15, dtype=torch.int32)
    codec = Affine(16, torch.tensor(scale))
    values = codes.float() * torch.tensor(scale)
    streams = codec.encode(values)
    assert torch.equal(streams["codes"], codes)
    assert torch.equal(codec.decode(streams, values.shape), values)
