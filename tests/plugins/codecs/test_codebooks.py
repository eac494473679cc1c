from __future__ import annotations

import pytest
import torch

from condensery.nets import Coding, Cost
from condensery_plugins.codecs.codebooks import ProductCodebook, ResidualCodebook


def test_each_part_of_a_row_has_its_codebook() -> None:
    """Rows of four in two halves; (1.2, 0.9) is nearest to (1, 1), the others are entries."""
    books = torch.tensor([[[0.0, 0.0], [1.0, 1.0]], [[5.0, -5.0], [0.0, 2.0]]])
    values = torch.tensor([[1.2, 0.9, 0.0, 2.0], [0.0, 0.0, 5.0, -5.0]])
    codec = ProductCodebook(books)
    streams = codec.encode(values)
    assert streams["codes"].tolist() == [[1, 1], [0, 0]]
    assert codec.decode(streams, (2, 4)).tolist() == [[1.0, 1.0, 0.0, 2.0], [0.0, 0.0, 5.0, -5.0]]
    assert Coding(codec).cost(values) == Cost(payload=1, tables=8 * 4)  # four times 1 bit; eight floats
    with pytest.raises(ValueError, match="8 values, 4 rows of 2 x 2"):
        codec.encode(values.view(4, 2))


def test_the_rate_of_product_quantization() -> None:
    """[35]: m x n by s sub-spaces of k centres take m s log2 k bits and 32 k n bits of codebooks."""
    m, n, s, k = 64, 32, 8, 16
    codec = ProductCodebook(torch.randn(s, k, n // s, generator=torch.Generator().manual_seed(0)))
    cost = Coding(codec).cost(torch.zeros(m, n))
    assert (8 * cost.payload, 8 * cost.tables) == (m * s * 4, 32 * k * n)


def test_an_entry_finds_itself_among_near_ones() -> None:
    book = 1000 + 1e-3 * torch.randn(256, 4, generator=torch.Generator().manual_seed(0))
    codec = ProductCodebook(book.unsqueeze(0))
    streams = codec.encode(book)
    assert torch.equal(codec.decode(streams, book.shape), book)


def test_stages_are_summed() -> None:
    """(11, 1): nearest (10, 0) leaves (1, 1), nearest (1, 2) leaves the error (0, -1)."""
    books = torch.tensor([[[0.0, 0.0], [10.0, 0.0]], [[1.0, 2.0], [-1.0, 0.0]]])
    codec = ResidualCodebook(books)
    streams = codec.encode(torch.tensor([11.0, 1.0, -1.0, 0.0]))
    assert streams["codes"].tolist() == [[1, 0], [0, 1]]
    assert codec.decode(streams, (4,)).tolist() == [11.0, 2.0, -1.0, 0.0]
    with pytest.raises(ValueError, match="3 values don't divide into sub-vectors of 2"):
        codec.encode(torch.zeros(3))


def test_fitted_codes_are_kept() -> None:
    """4 + -2 = 2 is nearer to 1 than to 4, so choosing stage by stage would store 1 + 3 = 4 or 1 - 2 = -1."""
    books = torch.tensor([[[1.0], [4.0]], [[-2.0], [3.0]]])
    value = torch.tensor([2.0])
    assert ResidualCodebook(books).decode(ResidualCodebook(books).encode(value), (1,)).tolist() != [2.0]
    fitted = ResidualCodebook(books, codes=torch.tensor([[1, 0]]))
    assert fitted.decode(fitted.encode(value), (1,)).tolist() == [2.0]
    with pytest.raises(ValueError, match="not what the codes stand for"):
        fitted.encode(torch.tensor([2.5]))


def test_codes_must_be_entries() -> None:
    streams = {"codes": torch.tensor([[4]]), "codebooks": torch.zeros(1, 4, 1)}
    with pytest.raises(ValueError, match="codes up to 4 for 4 entries"):
        ProductCodebook().decode(streams, (1,))
    with pytest.raises(ValueError, match="3 dimensions, not 2"):
        ProductCodebook(torch.zeros(4, 1))
