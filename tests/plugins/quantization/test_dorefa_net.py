from __future__ import annotations

import pytest
import torch
from tests.plugins.quantization.helpers import stage_of
from torch import Tensor

from condensery.nets import attached
from condensery_plugins.quantization.dorefa_net import DoReFaNet, GradientLevels
from condensery_plugins.quantization.uniform import for_unit_input


def rounded(gradient: Tensor, width: int, seed: int = 0) -> Tensor:
    torch.manual_seed(seed)
    return GradientLevels(width).rounded(gradient)


def test_activation_levels_by_hand() -> None:
    """Two bits: thirds from 0 to 1, and the gradient stops outside."""
    seen = [torch.tensor([0.0, 5.0])]
    x = torch.tensor([-0.5, 0.1, 0.4, 0.9, 3.0], requires_grad=True)
    out = for_unit_input(seen, 2)(x)
    assert out.tolist() == pytest.approx([0, 0, 1 / 3, 1, 1])
    out.sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0, 1, 1, 1, 0]


def test_inputs_that_no_relu_has_seen_keep_their_negative_half() -> None:
    """Two bits over -1 to 2 are the levels -1, 0, 1, 2, in an inner layer too; 5 is cut off."""
    out = for_unit_input([torch.tensor([-1.0, 2.0])], 2)(torch.tensor([-1.0, -0.6, 0.4, 5.0]))
    assert out.tolist() == pytest.approx([-1, -1, 0, 2])

    stage = stage_of("mlp", hidden=[16, 16], batch_norm=True, activation="hardtanh")
    DoReFaNet().prepare(stage=stage)
    inner = {a.target: a.transform for a in attached(stage.student.module)}["fc2:input"]
    assert inner(torch.tensor([-1.0, 1.0])).tolist() == pytest.approx([-1, 1], abs=0.4)


def test_gradients_are_levels_between_each_examples_largest() -> None:
    """Two bits: -m, -m/3, m/3, m. The largest one is cut off at m or falls to the level below, by the noise."""
    gradient = torch.randn(6, 4, 5, 5, dtype=torch.float64)
    out = rounded(gradient, 2)
    for example, values in zip(gradient, out, strict=True):
        levels = values / example.abs().max() * 3
        torch.testing.assert_close(levels.abs(), levels.abs().round())
        assert set(levels.abs().round().flatten().tolist()) <= {1.0, 3.0}


def test_rounded_gradients_keep_their_expectation() -> None:
    """Except within half a step of the ends, where the noise is cut off."""
    gradient = torch.tensor([[1.0, 0.3, -0.1, -0.55]], dtype=torch.float64).expand(20_000, 4)
    out = rounded(gradient, 2)
    assert len(set(out[:, 1].tolist())) > 1
    torch.testing.assert_close(out.mean(0)[1:], gradient[0, 1:], atol=0.02, rtol=0)


def test_the_noise_is_seeded_and_zero_stays() -> None:
    gradient = torch.randn(3, 8)
    assert torch.equal(rounded(gradient, 4), rounded(gradient, 4))
    assert not torch.equal(rounded(gradient, 4), rounded(gradient, 4, seed=1))
    assert not rounded(torch.zeros(3, 8), 4).any()


def test_only_the_gradient_in_training_is_rounded() -> None:
    made = GradientLevels(1)
    x = torch.randn(4, 6, requires_grad=True)
    weights = torch.randn(4, 6)
    out = made(x)
    assert torch.equal(out, x)
    (out * weights).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad.abs(), weights.abs().amax(1, keepdim=True).expand(4, 6))  # of one bit -m and m
    assert made.eval()(x) is x


def test_edges_stay_float_and_inner_outputs_round_their_gradients() -> None:
    stage = stage_of("resnet8", width=0.5)
    DoReFaNet(weight_bits=2).prepare(stage=stage)
    found = {(a.target, type(a.transform).__name__, a.keep) for a in attached(stage.student.module)}
    assert ("layer1.0.conv1.weight", "TanhLevels", True) in found
    assert ("layer1.0.conv1:input", "Uniform", True) in found
    assert ("layer1.0.conv1:output", "GradientLevels", False) in found
    assert not any(target.startswith(("conv1", "linear")) for target, _, _ in found)
    assert len(found) == 3 * 6


def test_one_bit_is_the_sign_times_the_layers_mean_size() -> None:
    stage = stage_of("resnet8", width=0.5)
    DoReFaNet().prepare(stage=stage)
    weight = stage.weights().by_path["layer2.0.conv2"]
    size = weight.latent.detach().abs().mean()
    assert size > 0
    torch.testing.assert_close(weight.value, torch.where(weight.latent.detach() >= 0, size, -size))


def test_edges_with_bits_cover_negative_inputs() -> None:
    stage = stage_of("resnet8", width=0.5)
    pictures = stage.record_inputs(["conv1"], 128)["conv1"]
    assert min(float(x.min()) for x in pictures) < -0.5
    DoReFaNet(edge_bits=8).prepare(stage=stage)
    got = stage.student.module.get_submodule("conv1.condensery_input")(pictures[0])
    torch.testing.assert_close(got, pictures[0], atol=0.02, rtol=0)
