from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import adaptive_max_pool2d

from condensery.errors import UsageError
from condensery_plugins.distillation.adapters import Adapter, aligned, as_map


def test_tokens_go_back_to_their_grid_without_the_class() -> None:
    tokens = torch.arange(5.0)[None, :, None].repeat(1, 1, 3)  # the class's, then four patches
    assert torch.equal(as_map(tokens), torch.tensor([[1.0, 2.0], [3.0, 4.0]]).expand(1, 3, 2, 2))
    assert torch.equal(as_map(tokens[:, 1:]), as_map(tokens))


def test_the_larger_map_shrinks() -> None:
    large = torch.tensor([[[[0.0, 2.0], [4.0, 6.0]]]])
    small = torch.ones(1, 3, 1, 1)
    assert [float(m.mean()) for m in aligned(large, small)] == [3.0, 1.0]
    assert [float(m.mean()) for m in aligned(small, large)] == [1.0, 3.0]
    assert float(aligned(large, small, adaptive_max_pool2d)[0].mean()) == 6.0


def test_as_many_tokens_meet_one_by_one() -> None:
    one, other = torch.randn(2, 7, 4), torch.randn(2, 7, 6)
    mine, theirs = aligned(one, other)
    assert (mine.shape, theirs.shape) == ((2, 4, 7, 1), (2, 6, 7, 1))
    assert torch.equal(mine[:, :, 3, 0], one[:, 3])


@pytest.mark.parametrize(
    ("mine", "theirs", "meet"),
    [
        ((2, 8, 8, 8), (2, 16, 4, 4), (2, 16, 4, 4)),  # CNN and CNN: pooled
        ((2, 8, 6, 6), (2, 16, 4, 4), (2, 16, 4, 4)),  # and by a kernel of 3
        ((2, 8, 4, 4), (2, 16, 8, 8), (2, 16, 4, 4)),
        ((2, 17, 24), (2, 16, 8, 8), (2, 16, 4, 4)),  # a ViT learns from a CNN
        ((2, 8, 8, 8), (2, 5, 24), (2, 24, 2, 2)),  # a CNN from a ViT
        ((2, 5, 12), (2, 17, 24), (2, 24, 2, 2)),  # patches of another size
        ((2, 11, 12), (2, 11, 24), (2, 24, 11, 1)),  # Transformers of other widths
        ((2, 30), (2, 16, 4, 4), (2, 16, 1, 1)),  # an MLP from a CNN
    ],
)
def test_every_pair_meets(mine: tuple[int, ...], theirs: tuple[int, ...], meet: tuple[int, ...]) -> None:
    student = torch.randn(mine, dtype=torch.float64, requires_grad=True)
    adapter = Adapter(student, torch.randn(theirs, dtype=torch.float64))
    guess, hint = adapter(student, torch.randn(theirs, dtype=torch.float64))
    assert guess.shape == hint.shape == meet
    (gradient,) = torch.autograd.grad(guess.square().sum(), student)
    assert bool(gradient.abs().sum() > 0)


def test_a_small_surplus_is_taken_by_the_kernel() -> None:
    def kernel(mine: Tensor) -> tuple[int, int]:
        return Adapter(mine, torch.zeros(1, 2, 4, 4)).kernel

    assert kernel(torch.zeros(1, 3, 6, 5)) == (3, 2)
    assert kernel(torch.zeros(1, 3, 8, 8)) == (1, 1)
    assert kernel(torch.zeros(1, 3, 4, 4)) == (1, 1)


def test_tokens_of_a_text_meet_no_map() -> None:
    with pytest.raises(UsageError, match="15 tokens are no square grid"):
        aligned(torch.zeros(1, 15, 4), torch.zeros(1, 4, 4, 4))
    with pytest.raises(UsageError, match="neither maps, tokens nor vectors"):
        as_map(torch.zeros(1))
