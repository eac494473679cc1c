from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from condensery import Weight
from condensery_plugins.pruning.weight_groups import KINDS, Groups, with_largest

VALUES = torch.tensor([[[[3.0, 0.0]], [[4.0, 0.0]]], [[[0.0, 12.0]], [[0.0, 0.0]]]])
"""Filter 0 reads channel 0 by (3, 0) and channel 1 by (4, 0); filter 1 channel 0 by (0, 12)."""


def groups_of(kind: str, values: Tensor = VALUES, **settings: Any) -> Groups:
    """Return the groups of a convolution with kernels of 1 x 2, or of a linear layer where weights are rows."""
    module = nn.Linear(2, 2) if values.dim() == 2 else nn.Conv2d(2, 2, (1, 2), bias=False, **settings)
    module.weight.data = values.clone()
    return Groups(Weight("", module, "weight"), kind)


@pytest.mark.parametrize(
    ("kind", "expected", "weights"),
    [
        ("filter", [5.0, 12.0], 4),
        ("channel", [math.sqrt(153), 4.0], 4),
        ("shape", [3.0, 12.0, 4.0, 0.0], 2),
        ("depth", [13.0], 8),
    ],
)
def test_norms_by_hand(kind: str, expected: list[float], weights: int) -> None:
    """Filters sqrt(9 + 16), 12; channels sqrt(9 + 144), 4; columns 3, 12, 4, 0; all sqrt(9 + 16 + 144)."""
    groups = groups_of(kind)
    assert groups.norms().flatten().tolist() == pytest.approx(expected)
    assert groups.size == weights
    assert groups.strengths().flatten().tolist() == pytest.approx([norm / math.sqrt(weights) for norm in expected])
    assert not groups.strengths().requires_grad


def test_each_convolution_group_has_its_own_columns() -> None:
    """Two groups of one filter: what the filters read is not shared, so each weight is a column."""
    values = torch.tensor([[[[3.0, 4.0]]], [[[6.0, 8.0]]]])
    shapes = groups_of("shape", values, groups=2)
    assert shapes.norms().flatten().tolist() == [3.0, 4.0, 6.0, 8.0]
    assert groups_of("channel", values, groups=2).norms().flatten().tolist() == [5.0, 10.0]
    assert shapes.spread(shapes.norms() > 5).flatten().tolist() == [False, False, True, True]


def test_rows_and_columns_of_a_linear_layer() -> None:
    values = torch.tensor([[3.0, 0.0], [4.0, 1.0]])
    assert groups_of("filter", values).norms().flatten().tolist() == pytest.approx([3.0, math.sqrt(17)])
    assert groups_of("channel", values).norms().flatten().tolist() == [5.0, 1.0]


def test_the_groups_around_some_weights() -> None:
    """The 12 belongs to filter 1, to channel 0 and to its second position."""
    twelve = VALUES == 12
    assert groups_of("filter").around(twelve).flatten().tolist() == [False, True]
    assert groups_of("channel").around(twelve).flatten().tolist() == [True, False]
    assert groups_of("shape").around(twelve).flatten().tolist() == [False, True, False, False]


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_weights_over_norms_and_right_by_differences(kind: str) -> None:
    values = torch.randn(2, 2, 1, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    groups = groups_of(kind, values)
    latent = groups.tensor.latent
    (grad,) = torch.autograd.grad(groups.norms().sum(), latent)
    torch.testing.assert_close(grad, values / groups.norms().expand(1, 2, 2, 2).reshape(values.shape))

    def total(step: float, place: int) -> float:
        latent.data = values.clone()
        latent.data.view(-1)[place] += step
        return float(groups.norms().detach().sum())

    differences = [(total(1e-6, i) - total(-1e-6, i)) / 2e-6 for i in range(8)]
    assert grad.flatten().tolist() == pytest.approx(differences, abs=1e-8)


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_of_zeros_is_zero(kind: str) -> None:
    groups = groups_of(kind, torch.zeros(2, 2, 1, 2))
    (grad,) = torch.autograd.grad(groups.norms().sum(), groups.tensor.latent)
    assert torch.equal(grad, torch.zeros_like(grad))


def test_the_largest_of_each_convolution_group_stays() -> None:
    scores = torch.tensor([[1.0, 3.0, 2.0], [0.0, 0.0, 0.0]]).view(2, 3, 1, 1)
    keep = with_largest(torch.tensor([[True, False, False], [False] * 3]).view(2, 3, 1, 1), scores)
    assert keep.flatten(1).tolist() == [[True, True, False], [True, False, False]]
