from __future__ import annotations

import math

import pytest
import torch

from condensery.nets import Coding, Dense
from condensery_plugins.quantization.tanh_levels import TanhLevels


def latent(*tanhs: float) -> torch.Tensor:
    return torch.tensor([math.atanh(t) for t in tanhs], dtype=torch.float64, requires_grad=True)


def test_levels_by_hand() -> None:
    """Two bits, largest tanh 0.8: shares 0.5 t / 0.8 + 0.5 = 1, 0.75, 0.4375, 0: thirds 3, 2, 1, 0."""
    out = TanhLevels(2)(latent(0.8, 0.4, -0.1, -0.8))
    assert out.tolist() == pytest.approx([1, 1 / 3, -1 / 3, -1])


def test_the_gradient_goes_through_tanh_and_maximum() -> None:
    """With M = max|t|: dq_i/dw_i = (1 - t_i^2) / M, and w of the maximum gets -t_i sign (1 - M^2) / M^2 from each i.

    For the maximum itself the two cancel: its level is 1 whatever it is.
    """
    w = latent(0.5, 0.2, -0.3)
    made = TanhLevels(4)
    weights = torch.tensor([5.0, 2.0, 3.0], dtype=torch.float64)
    (made(w) * weights).sum().backward()
    assert w.grad is not None
    of_maximum = -(0.2 * 2 - 0.3 * 3) * (1 - 0.5**2) / 0.5**2
    wanted = [of_maximum, 2 * (1 - 0.2**2) / 0.5, 3 * (1 - 0.3**2) / 0.5]
    assert w.grad.tolist() == pytest.approx(wanted)


def test_it_is_the_formula_in_float64() -> None:
    w = torch.randn(400, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for bits in (2, 3, 8):
        n = 2**bits - 1
        t = torch.tanh(w).numpy()
        wanted = 2 * (n * (t / (2 * abs(t).max()) + 0.5)).round() / n - 1
        out = TanhLevels(bits)(w)
        assert out.numpy() == pytest.approx(wanted)
        assert 2 ** (bits - 1) < len(out.unique()) <= 2**bits


def test_zeros_become_the_smallest_positive_level() -> None:
    for bits in (2, 3, 8):
        assert TanhLevels(bits)(torch.zeros(5, dtype=torch.float64)).tolist() == pytest.approx([1 / (2**bits - 1)] * 5)


def test_it_is_stored_in_its_bits() -> None:
    w = torch.randn(800, generator=torch.Generator().manual_seed(0))
    made = TanhLevels(3)
    final = made(w)
    assert made.holds(final) is None
    assert made.holds(w) is not None
    coding = made.code(Coding(Dense()), final)
    assert torch.equal(coding.codec.decode(coding.codec.encode(final), final.shape), final)
    assert coding.cost(final).payload == 800 * 3 // 8
