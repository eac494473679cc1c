from __future__ import annotations

import pytest
import torch

from condensery.nets import Coding, Cost
from condensery_plugins.codecs.palette import Palette


def test_zero_comes_first() -> None:
    values = torch.tensor([[0.5, 0.0], [-2.0, 0.5]])
    codec = Palette(values)
    streams = codec.encode(values)
    assert streams["codebook"].tolist() == [0.0, -2.0, 0.5]
    assert streams["codes"].tolist() == [[2, 0], [1, 2]]
    assert torch.equal(codec.decode(streams, (2, 2)), values)
    assert Coding(codec).cost(values) == Cost(payload=1, tables=12)  # four times 2 bits; three floats


def test_a_codebook_without_zero_ascends() -> None:
    codec = Palette(torch.tensor([3.0, -1.0, 3.0, 2.0]))
    assert codec.encode(torch.tensor([2.0, 3.0, -1.0]))["codes"].tolist() == [1, 2, 0]
    with pytest.raises(ValueError, match="not in the codebook"):
        codec.encode(torch.tensor([2.5]))
    with pytest.raises(ValueError, match="not in the codebook"):
        codec.encode(torch.tensor([9.0]))


def test_any_float32_comes_back_bit_by_bit() -> None:
    values = torch.tensor([1e-45, -1e-45, 3.4e38, float("inf"), float("-inf"), 0.1, 1 / 3])
    codec = Palette(values)
    back = codec.decode(codec.encode(values), values.shape)
    assert torch.equal(back.view(torch.int32), values.view(torch.int32))


def test_what_has_no_palette() -> None:
    with pytest.raises(ValueError, match="65537 distinct values, more than 65536"):
        Palette(torch.arange(65537.0))
    assert len(Palette(torch.arange(65536.0)).codebook) == 65536
    with pytest.raises(ValueError, match="not a number"):
        Palette(torch.tensor([float("nan")]))
    with pytest.raises(ValueError, match="float64 is not float32"):
        Palette(torch.tensor([0.1], dtype=torch.float64))
    assert Palette(torch.tensor([0.5], dtype=torch.float64)).codebook.dtype is torch.float32
    with pytest.raises(ValueError, match="codes up to 3 for 2 entries"):
        Palette().decode({"codes": torch.tensor([3]), "codebook": torch.zeros(2)}, (1,))
