from __future__ import annotations

import math

import pytest
import torch
from tests.core.helpers import answered

from condensery_plugins.distillation.softened import divergence, softened


def test_softened_by_hand() -> None:
    """Logits 0 and T ln 3 at temperature T: probabilities 1/4 and 3/4."""
    logits = torch.tensor([[0.0, 2 * math.log(3)]])
    torch.testing.assert_close(softened(logits, 2.0), torch.tensor([[0.25, 0.75]]))


def test_several_teachers_give_their_mean() -> None:
    one = torch.tensor([[0.0, math.log(3)]])
    other = torch.tensor([[0.0, 0.0]])
    torch.testing.assert_close(softened([one, other], 1.0), torch.tensor([[0.375, 0.625]]))


def test_divergence_is_summed_over_classes_and_averaged_over_the_batch() -> None:
    """KL((1/4, 3/4) || (1/2, 1/2)) = 1/4 ln 1/2 + 3/4 ln 3/2, for each of three examples."""
    target = torch.tensor([[0.25, 0.75]]).repeat(3, 1)
    by_hand = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    assert float(divergence(answered(torch.zeros(3, 2)), target, 5.0)) == pytest.approx(by_hand, rel=1e-5)


def test_gradient_by_the_papers_formula() -> None:
    """dL/dz = (q - p) / T, per example (section 2)."""
    torch.manual_seed(0)
    student = torch.randn(1, 5, dtype=torch.float64, requires_grad=True)
    target = softened(torch.randn(1, 5, dtype=torch.float64), 3.0)
    divergence(answered(student), target, 3.0).backward()  # type: ignore[no-untyped-call]
    assert student.grad is not None
    torch.testing.assert_close(student.grad, (softened(student.detach(), 3.0) - target) / 3.0)
    assert torch.autograd.gradcheck(lambda z: divergence(answered(z), target, 3.0), (student,))
