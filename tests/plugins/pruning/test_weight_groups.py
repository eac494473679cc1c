from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from condensery_plugins.pruning.weight_groups import KINDS, norms, size, spread, with_largest


def conv(**settings: Any) -> nn.Conv2d:
    return nn.Conv2d(2, 2, (1, 2), bias=False, **settings)


VALUES = torch.tensor([[[[3.0, 0.0]], [[4.0, 0.0]]], [[[0.0, 12.0]], [[0.0, 0.0]]]])
"""Filter 0 reads channel 0 by (3, 0) and channel 1 by (4, 0); filter 1 channel 0 by (0, 12)."""


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
    assert norms(conv(), VALUES, kind).flatten().tolist() == pytest.approx(expected)
    assert size(conv(), VALUES, kind) == weights


def test_each_convolution_group_has_its_own_columns() -> None:
    """Two groups of one filter: what the filters read is not shared, so each weight is a column."""
    module, values = nn.Conv2d(2, 2, (1, 2), groups=2), torch.tensor([[[[3.0, 4.0]]], [[[6.0, 8.0]]]])
    assert norms(module, values, "shape").flatten().tolist() == [3.0, 4.0, 6.0, 8.0]
    assert norms(module, values, "channel").flatten().tolist() == [5.0, 10.0]
    keep = norms(module, values, "shape") > 5
    assert spread(module, values, keep).flatten().tolist() == [False, False, True, True]


def test_rows_and_columns_of_a_linear_layer() -> None:
    values = torch.tensor([[3.0, 0.0], [4.0, 1.0]])
    module = nn.Linear(2, 2)
    assert norms(module, values, "filter").flatten().tolist() == pytest.approx([3.0, math.sqrt(17)])
    assert norms(module, values, "channel").flatten().tolist() == [5.0, 1.0]


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_weights_over_norms_and_right_by_differences(kind: str) -> None:
    values = torch.randn(2, 2, 1, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values.requires_grad_(True)
    (grad,) = torch.autograd.grad(norms(conv(), values, kind).sum(), values)
    torch.testing.assert_close(grad, values / spread(conv(), values, norms(conv(), values, kind)))
    assert torch.autograd.gradcheck(lambda v: norms(conv(), v, kind), values)


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_of_zeros_is_zero(kind: str) -> None:
    values = torch.zeros(2, 2, 1, 2, requires_grad=True)
    (grad,) = torch.autograd.grad(norms(conv(), values, kind).sum(), values)
    assert torch.equal(grad, torch.zeros_like(values))


def test_the_largest_of_each_convolution_group_stays() -> None:
    scores = torch.tensor([[1.0, 3.0, 2.0], [0.0, 0.0, 0.0]]).view(2, 3, 1, 1)
    keep = with_largest(torch.tensor([[True, False, False], [False] * 3]).view(2, 3, 1, 1), scores)
    assert keep.flatten(1).tolist() == [[True, True, False], [True, False, False]]
