from __future__ import annotations

import pytest
import torch
from tests.plugins.quantization.helpers import stage_of

from condensery import Stage, Weight
from condensery_plugins.quantization.wrpn import WRPN


def weight_of(stage: Stage, path: str = "layer2.0.conv2") -> Weight:
    return stage.weights().by_path[path]


def held(values: list[float], bits: int, estimator: str = "clip") -> tuple[list[float], list[float]]:
    """Return levels and gradients of some latent weights."""
    stage = stage_of("resnet8", width=0.5)
    latent = weight_of(stage).latent
    latent.data.fill_(0.1).view(-1)[: len(values)] = torch.tensor(values)
    WRPN(weight_bits=bits, normalize=False, estimator=estimator).prepare(stage=stage)  # type: ignore[arg-type]
    module = weight_of(stage).module
    module.weight.sum().backward()  # type: ignore[operator]
    assert latent.grad is not None
    flat = module.weight.detach().flatten()  # type: ignore[operator]
    return flat[: len(values)].tolist(), latent.grad.flatten()[: len(values)].tolist()


def test_two_bits_have_three_levels() -> None:
    """-1, 0 and 1, as one bit is the sign; the gradient stops beyond 1."""
    levels, gradients = held([-3.0, -0.6, -0.4, 0.3, 0.7, 1.5], 2)
    assert levels == [-1, -1, 0, 0, 1, 1]
    assert gradients == [0, 1, 1, 1, 1, 0]


def test_three_bits_are_thirds() -> None:
    levels, _ = held([-3.0, -0.6, -0.1, 0.3, 0.9], 3)
    assert levels == pytest.approx([-1, -2 / 3, 0, 1 / 3, 1])


def test_the_gradient_may_pass_everywhere() -> None:
    assert held([-3.0, 0.2, 1.5], 2, "identity")[1] == [1, 1, 1]


def test_one_bit_is_the_sign_times_the_filters_mean_size() -> None:
    stage = stage_of("resnet8", width=0.5)
    WRPN(weight_bits=1).prepare(stage=stage)
    weight = weight_of(stage)
    sizes = weight.latent.detach().abs().mean((1, 2, 3), keepdim=True)
    assert sizes.min() > 0
    torch.testing.assert_close(weight.value, sizes * weight.latent.detach().sign())
    # The gradient passes within -1 and 1, where the net's starting weights are.
    weight.module.weight.sum().backward()  # type: ignore[operator]
    assert weight.latent.grad is not None
    assert torch.equal(weight.latent.grad, torch.ones_like(weight.latent))


def test_usual_weights_would_all_be_zero_without_the_division() -> None:
    zeros = []
    for normalize in (False, True):
        stage = stage_of("resnet8")
        method = WRPN(normalize=normalize)
        method.prepare(stage=stage)
        zeros.append(method.report(stage=stage)["zeros_percent"])
    assert zeros[0] > 99
    assert zeros[1] == pytest.approx(46, abs=3)  # |w| < 1.224 / 2 deviations, of normal weights


def test_activations_are_cut_off_at_0_and_1() -> None:
    """Two bits: thirds; the gradient stops outside. The width of the net is what a recipe's student says."""
    quantizer = WRPN().input_quantizer([torch.rand(9)], 2)
    x = torch.tensor([-0.2, 0.1, 0.4, 0.9, 2.0], requires_grad=True)
    found = quantizer(x)
    assert found.tolist() == pytest.approx([0, 0, 1 / 3, 1, 1])
    found.sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0, 1, 1, 1, 0]
