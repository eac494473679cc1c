"""Codes are really as small as they are said to be, and come back."""

from __future__ import annotations

import pytest
import torch

from condensery_plugins.quantization.gradient_codes.codes import Code, ColumnMeans, ScaledSign, StochasticLevels
from condensery_plugins.quantization.gradient_codes.words import (
    entropy_bytes,
    packed,
    packed_trits,
    unpacked,
    unpacked_trits,
    with_floats,
)


def no_draw() -> torch.Tensor:
    raise AssertionError("this code draws nothing")


def test_the_first_code_has_the_lowest_bits() -> None:
    codes = torch.tensor([[1, 2, 3, 0, 3], [0, 0, 0, 0, 1]])
    assert packed(codes, 2).tolist() == [[0b00111001, 3], [0, 1]]
    assert packed(codes, 3).tolist() == [[0b11010001, 0b00110000], [0, 0b00010000]]
    assert packed(torch.tensor([[1, 0, 0, 0, 0, 0, 0, 1, 1]]), 1).tolist() == [[129, 1]]
    assert packed_trits(torch.tensor([[2, 0, 1, 0, 0, 2]])).tolist() == [[2 + 9, 2]]


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5, 8])
def test_what_is_packed_comes_back(bits: int) -> None:
    codes = torch.randint(2**bits, (3, 37), generator=torch.Generator().manual_seed(0))
    words = packed(codes, bits)
    assert words.dtype == torch.uint8
    assert words.shape == (3, -(-37 * bits // 8))
    assert torch.equal(unpacked(words, bits, 37).long(), codes)
    assert torch.equal(unpacked_trits(packed_trits(codes % 3), 37).long(), codes % 3)


def test_the_entropy_of_a_worker() -> None:
    """Half of four codes take one bit each, the others two: 6 bits; a worker whose codes are all alike takes none."""
    assert float(entropy_bytes(torch.tensor([[0, 1, 2, 2]]), 3)) == pytest.approx(6 / 8)
    assert float(entropy_bytes(torch.tensor([[0, 1, 2, 2], [1, 1, 1, 1]]), 3)) == pytest.approx(6 / 8 / 2)


def test_a_sign_and_the_mean_size() -> None:
    values = torch.tensor([[1.0, -3.0, 0.0, 2.0], [0.0, 0.0, 0.0, 0.0]])
    words = ScaledSign().encode(values, no_draw)
    assert torch.equal(words, with_floats(torch.tensor([[1.5], [0.0]]), torch.tensor([[0b1101], [0b1111]]).byte()))
    assert ScaledSign().decode(words, 4).tolist() == [[1.5, -1.5, 1.5, 1.5], [0.0] * 4]
    root = ScaledSign("l2")
    assert root.decode(root.encode(values, no_draw), 4)[0, 0].item() == pytest.approx(3.5**0.5)


def test_two_means_of_each_column() -> None:
    """W is [[1, -2, 4], [3, -4, -6]]; its columns share an input, its rows an output."""
    values = torch.tensor([[1.0, -2.0, 4.0, 3.0, -4.0, -6.0]])
    by_input = ColumnMeans(3, across=True)
    assert by_input.decode(by_input.encode(values, no_draw), 6).tolist() == [[2.0, -3.0, 4.0, 2.0, -3.0, -6.0]]
    by_output = ColumnMeans(2, across=False)
    assert by_output.decode(by_output.encode(values, no_draw), 6).tolist() == [[2.5, -2.0, 2.5, 3.0, -5.0, -5.0]]


@pytest.mark.parametrize("norm", ["max", "l2"])
@pytest.mark.parametrize("bucket", [0, 2])
def test_levels_are_right_on_the_average(norm: str, bucket: int) -> None:
    """Over all draws of a grid the mean of what is sent is the number: each level has its probability."""
    code = StochasticLevels(3, bucket, norm)  # type: ignore[arg-type]
    values = torch.tensor([[0.3, -0.4, 0.0, 1.2, -0.05]])
    draws = (torch.arange(3000) + 0.5) / 3000
    sent = [code.decode(code.encode(values, lambda d=d: d.expand(1, 5)), 5) for d in draws]  # type: ignore[misc]
    torch.testing.assert_close(torch.cat(sent).mean(0, keepdim=True), values, atol=5e-4, rtol=0)
    assert len(torch.cat(sent)[:, 1].unique()) <= 2  # type: ignore[no-untyped-call]
    assert code.bits == 3


def test_levels_by_hand() -> None:
    """Of two levels a sign and scales 1 and 4: 0.7 lies between 0.5 and 1, with the probability 0.4 of the latter."""
    code = StochasticLevels(2, bucket=2)
    values = torch.tensor([[0.7, -1.0, 4.0]])
    for draw, seen in ((0.39, 1.0), (0.41, 0.5)):
        words = code.encode(values, lambda draw=draw: torch.full((1, 3), draw))  # type: ignore[misc]
        assert code.decode(words, 3).tolist() == [[seen, -1.0, 4.0]]
        assert words.shape[1] == code.size(3) == 2 * 4 + 2
    zeros = code.encode(torch.zeros(1, 3), lambda: torch.zeros(1, 3))
    assert code.decode(zeros, 3).tolist() == [[0.0] * 3]


@pytest.mark.parametrize(
    "code", [ScaledSign(), ColumnMeans(7, across=True), StochasticLevels(1), StochasticLevels(7, 16)], ids=str
)
def test_a_code_is_as_large_as_it_says(code: Code) -> None:
    values = torch.randn(2, 70, generator=torch.Generator().manual_seed(0))
    words = code.encode(values, lambda: torch.rand(2, 70, generator=torch.Generator().manual_seed(1)))
    assert words.dtype == torch.uint8
    assert words.shape == (2, code.size(70))
    assert code.decode(words, 70).shape == values.shape
