from __future__ import annotations

from typing import Any
from unittest.mock import Mock

import pytest
import torch
from tests.plugins.quantization.helpers import REGISTRY, stage_of
from torch import Tensor, nn

from condensery import NotApplicable, Stage, UsageError
from condensery.contract import build_method
from condensery.nets import attached, evaluating
from condensery_plugins.quantization.corrections import (
    channel_means,
    correct_biases,
    reestimate_norms,
    shiftable,
)
from condensery_plugins.quantization.ptq import PTQ
from condensery_plugins.quantization.uniform import Uniform


class Net(nn.Module):
    """What a test needs of layers on pictures of digits, ``(batch, 1, 8, 8)``."""

    def __init__(self, **layers: nn.Module) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        for name, layer in self.named_children():
            if name != "spare":
                x = layer(x.flatten(1) if isinstance(layer, nn.Linear) else x)
        return x


def stage_on(**layers: nn.Module) -> Stage:
    stage = stage_of("mlp", hidden=[])
    stage.student.module = Net(**layers)
    stage.changed()
    return stage


def quantizer(stage: Stage, target: str) -> Uniform:
    (found,) = [a.transform for a in attached(stage.student.module) if a.target == target]
    assert isinstance(found, Uniform)
    return found


def inputs(stage: Stage, n: int = 128) -> Tensor:
    return torch.cat([batch.inputs for batch in stage.sample(n)])


# ---------------------------------------------------------------------------- the method


def test_ranges_are_those_of_the_float_net() -> None:
    stage = stage_of("mlp", hidden=[20, 20])
    seen = {path: torch.cat(calls) for path, calls in stage.record_inputs(["fc1", "fc2", "fc3"], 64).items()}
    assert all(x.std() > 0 for x in seen.values())
    assert seen["fc2"].min() == 0  # behind a ReLU

    method = PTQ(weight_bits=4, activation_bits=6, edge_bits=5, samples=64, granularity="tensor")
    method.prepare(stage=stage)
    for path, bits, low, high, largest in (("fc1", 5, -15, 15, 15), ("fc2", 6, 0, 63, 7), ("fc3", 5, 0, 31, 15)):
        of_input, of_weight = quantizer(stage, f"{path}:input"), quantizer(stage, f"{path}.weight")
        assert (of_input.bits, of_input.low, of_input.high) == (bits, low, high)
        assert float(of_input.scale) == pytest.approx(float(seen[path].abs().max()) / high)
        latent = stage.weights().by_path[path].latent
        assert float(of_weight.scale) == pytest.approx(float(latent.detach().abs().max()) / largest)
    assert method.report(stage=stage)["samples_count"] == 64
    assert method.report(stage=stage)["reached_percent"] > 90


def test_edges_may_stay_float_and_inputs_too() -> None:
    stage = stage_of("resnet8", width=0.5)
    PTQ(edge_bits=None, activation_bits=None).prepare(stage=stage)
    targets = {a.target for a in attached(stage.student.module)}
    assert "layer1.0.conv1.weight" in targets
    assert not {"conv1.weight", "linear.weight", "layer1.0.conv1:input"} & targets


def test_a_net_of_two_float_layers_is_refused() -> None:
    with pytest.raises(NotApplicable, match="no layers between the first and the last"):
        PTQ(edge_bits=None).prepare(stage=stage_of("mlp", hidden=[20]))


def test_embeddings_are_quantized_where_they_are_asked_for() -> None:
    shares = []
    for embeddings in (False, True):
        stage = stage_of("transformer", "word-language", hidden=24, depth=1)
        method = PTQ(embeddings=embeddings)
        method.prepare(stage=stage)
        shares.append(method.report(stage=stage)["reached_percent"])
    assert shares[1] > shares[0] + 5


@pytest.mark.parametrize("name", ["weight_bits", "activation_bits", "edge_bits"])
@pytest.mark.parametrize("bits", [0, 1, 17, 33])
def test_other_widths_are_refused_in_one_line(name: str, bits: int) -> None:
    with pytest.raises(UsageError, match=rf"ptq\.{name} must be >= 2 and <= 16, got {bits}"):
        build_method("ptq", PTQ, {name: bits}, REGISTRY.card("ptq"))


def test_weights_that_are_not_finite_are_refused() -> None:
    stage = stage_of("mlp", hidden=[20])
    stage.weights().by_path["fc2"].latent.data[0, 0] = torch.nan
    with pytest.raises(NotApplicable, match="layer 'fc2' has weights that are not finite"):
        PTQ().prepare(stage=stage)


def test_dead_layers_stay_dead_and_give_numbers() -> None:
    stage = stage_of("mlp", hidden=[20])
    stage.weights().by_path["fc1"].latent.data.zero_()
    PTQ(weight_observer="mse", observer="entropy").prepare(stage=stage)
    assert not stage.weights().by_path["fc1"].value.any()
    assert stage.weights().by_path["fc2"].value.any()
    with evaluating(stage.student.module), torch.no_grad():
        assert stage.student.module(inputs(stage)).isfinite().all()


def test_a_layer_that_is_never_called_stays_float_and_is_named() -> None:
    stage = stage_on(first=nn.Linear(64, 16), spare=nn.Linear(16, 16), last=nn.Linear(16, 10))
    method = PTQ()
    method.prepare(stage=stage)
    assert stage.weights().by_path["spare"].stack is None
    assert stage.weights().by_path["first"].stack is not None
    method.report(stage=stage)
    assert stage.missed is not None
    assert list(stage.missed) == ["spare.weight"]


def test_an_empty_calibration_set_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = stage_of("mlp", hidden=[20])
    monkeypatch.setattr(stage, "sample", lambda n: [])
    with pytest.raises(NotApplicable, match="the calibration set is empty"):
        PTQ().prepare(stage=stage)


# ---------------------------------------------------------------------------- corrections


def test_a_known_shift_is_taken_from_the_bias() -> None:
    """All weights of an output are moved by 10: its mean moves by 10 times the mean sum of the inputs."""
    stage = stage_on(fc=nn.Linear(64, 10))
    means = channel_means(stage, ["fc"], stage.sample(128))
    x = inputs(stage)
    layer = stage.student.module.get_submodule("fc")
    assert isinstance(layer, nn.Linear)
    torch.testing.assert_close(means["fc"].float(), layer(x.flatten(1)).mean(0).detach())

    before = layer.bias.detach().clone()
    with torch.no_grad():
        layer.weight[3] += 10
    assert correct_biases(stage, means, stage.sample(128)) == 1
    wanted = torch.zeros(10)
    wanted[3] = 10 * x.flatten(1).sum(1).mean()
    assert abs(float(wanted[3])) > 1
    torch.testing.assert_close(before - layer.bias.detach(), wanted, rtol=1e-4, atol=1e-4)


def test_a_shift_before_a_norm_is_taken_from_the_norms_bias() -> None:
    """A convolution without a bias gives 0.5 more; the norm makes gamma / sqrt(var + eps) of it: 2 / 4 * 0.5."""
    norm = nn.BatchNorm2d(1, eps=0)
    stage = stage_on(conv=nn.Conv2d(1, 1, 1, bias=False), norm=norm, out=nn.Linear(64, 10))
    conv = stage.student.module.get_submodule("conv")
    with torch.no_grad():
        conv.weight.fill_(1.0)  # type: ignore[operator]
        norm.weight.fill_(2.0)
        assert norm.running_var is not None
        norm.running_var.fill_(16.0)
    means = channel_means(stage, shiftable(stage).by_path, stage.sample(128))
    assert list(means) == ["norm", "out"]

    mean = float(inputs(stage).mean())
    with torch.no_grad():
        conv.weight.add_(0.5 / mean)  # type: ignore[operator]
    assert correct_biases(stage, means, stage.sample(128)) == 2
    assert float(norm.bias.detach()) == pytest.approx(-0.25, abs=1e-4)
    left = channel_means(stage, ["norm"], stage.sample(128))["norm"] - means["norm"]
    assert float(left) == pytest.approx(0, abs=1e-5)


def test_rounded_nets_keep_the_mean_of_every_channel() -> None:
    """At two bits the outputs of a small ResNet shift; with the correction their means are the float net's."""
    shifts = []
    for correct in (False, True):
        stage = stage_of("resnet8", width=0.5)
        means = channel_means(stage, ["linear"], stage.sample(128))["linear"]
        PTQ(weight_bits=2, activation_bits=3, correct_biases=correct).prepare(stage=stage)
        shifts.append(float((channel_means(stage, ["linear"], stage.sample(128))["linear"] - means).abs().max()))
    assert shifts[0] > 0.01
    assert shifts[1] < 1e-4


def test_norms_average_anew_by_hand() -> None:
    """One batch: its mean and variance; two batches of 32: the mean of both."""
    norm = nn.BatchNorm2d(1, momentum=0.3)
    stage = stage_on(norm=norm, out=nn.Linear(64, 10))
    norm.running_mean, norm.running_var = torch.tensor([7.0]), torch.tensor([9.0])
    stage.train = stage.train.model_copy(update={"batch_size": 32})
    assert reestimate_norms(stage, stage.sample(64)) == 1

    parts = [batch.inputs for batch in stage.sample(64)]
    assert len(parts) == 2
    assert float(norm.running_mean) == pytest.approx(sum(float(p.mean()) for p in parts) / 2, abs=1e-6)
    assert float(norm.running_var) == pytest.approx(sum(float(p.var()) for p in parts) / 2, rel=1e-5)
    assert (norm.momentum, norm.training) == (0.3, stage.student.module.training)


def test_nothing_else_moves_while_norms_average() -> None:
    """Dropout stays off, and a single example, which has no variance, changes nothing."""
    norm = nn.BatchNorm1d(64)
    stage = stage_on(flat=nn.Flatten(), drop=nn.Dropout(0.9), norm=norm, out=nn.Linear(64, 10))
    reestimate_norms(stage, stage.sample(32))
    assert norm.running_mean is not None
    torch.testing.assert_close(norm.running_mean, inputs(stage, 32).flatten(1).mean(0))

    kept = norm.running_mean.clone()
    assert reestimate_norms(stage, stage.sample(1)) == 0
    assert torch.equal(norm.running_mean, kept)


def test_the_method_does_both_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranges, norms and biases come from the same examples, drawn once."""
    stage = stage_of("resnet8", width=0.5)
    sample = Mock(wraps=stage.sample)
    monkeypatch.setattr(stage, "sample", sample)
    settings: dict[str, Any] = {"reestimate_norms": True, "correct_biases": True}
    method = PTQ(weight_bits=3, activation_bits=4, **settings)
    method.prepare(stage=stage)
    sample.assert_called_once_with(128)
    report = method.report(stage=stage)
    assert report["reestimated_norms_count"] == 7
    assert report["corrected_layers_count"] == 8  # all norms, and the last layer
