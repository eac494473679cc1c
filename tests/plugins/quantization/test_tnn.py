"""Nets that fire -1, 0 or 1: what is drawn, how a neuron is split and cut, and the student that comes of a teacher."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.plugins.quantization.helpers import REGISTRY, stage_of
from torch import Tensor, nn

from condensery import NotApplicable, Stage, load
from condensery.nets import attached, evaluating
from condensery.recipe import parse_recipe
from condensery.testing.checks import check_artifact
from condensery.testing.runs import play
from condensery_plugins.quantization.ternary_conversion import chances_of, thresholds
from condensery_plugins.quantization.ternary_firing import DrawnTernary, TernaryFiring, Thresholds
from condensery_plugins.quantization.ternary_split import (
    Sums,
    best_along,
    best_bias,
    best_cut,
    best_split,
    fit_classes,
    fit_neuron,
    reachable,
)
from condensery_plugins.quantization.tnn import TNN

# ---------------------------------------------------------------------------- what is drawn


def test_firing_has_the_tanh_as_mean() -> None:
    """In training 1 with probability tanh(x), for negative ones -1 with that of its size; otherwise it is rounded."""
    torch.manual_seed(0)
    x = torch.tensor([0.5, -1.0, 0.0, 20.0]).expand(20_000, 4)
    fired = TernaryFiring()(x)
    assert torch.unique(fired).tolist() == [-1, 0, 1]
    assert fired.mean(0).tolist() == pytest.approx([math.tanh(0.5), math.tanh(-1), 0, 1], abs=0.02)
    assert set(fired[:, 0].tolist()) == {0, 1}
    edge = math.atanh(0.5)
    x = torch.tensor([edge * 1.001, edge * 0.999, -edge * 1.001, -edge * 0.999])
    assert TernaryFiring().eval()(x).tolist() == [1, 0, -1, 0]


def test_the_gradient_of_a_firing_is_that_of_tanh() -> None:
    x = torch.linspace(-2, 2, 9, dtype=torch.float64, requires_grad=True)
    TernaryFiring()(x).sum().backward()
    torch.testing.assert_close(x.grad, 1 - x.detach().tanh().square())


def test_an_image_is_rounded_to_ternary_values() -> None:
    x = torch.tensor([0.0, 0.4, 0.6, -3.0, 1.0])
    assert TernaryFiring(squashed=False)(x).tolist() == [0, 0, 1, -1, 1]


def test_weights_are_drawn_and_the_last_ones_stay() -> None:
    """Mean 0.3 and -0.8; what is beyond 1 counts as 1. The gradient is as it comes."""
    torch.manual_seed(0)
    latent = torch.tensor([[0.3, -0.8, 5.0]])
    made = DrawnTernary([1, 3]).start(latent, seed=1)
    assert latent.tolist() == [[pytest.approx(0.3), pytest.approx(-0.8), 1]]
    several = torch.cat([made(latent) for _ in range(4000)])
    assert several.mean(0).tolist() == pytest.approx([0.3, -0.8, 1], abs=0.03)
    assert torch.unique(several).tolist() == [-1, 0, 1]

    assert torch.equal(made.eval()(latent), several[-1:])
    value = latent.double().requires_grad_()
    (made.train()(value) * torch.tensor([[1.0, 2.0, 3.0]])).sum().backward()
    assert value.grad is not None
    assert value.grad.tolist() == [[1, 2, 3]]
    made.settle(latent.mul_(-9))
    assert latent.min() == -1


def test_zero_lies_between_the_thresholds_ends_included() -> None:
    made = Thresholds.of(torch.tensor([-1.0, 2.0]), torch.tensor([1.0, 2.0]))
    assert made(torch.tensor([[-2.0, 1.0], [-1.0, 2.0], [1.0, 3.0], [2.0, 2.0]])).tolist() == [
        [-1, -1],
        [0, 0],
        [0, 1],
        [1, 0],
    ]


# ---------------------------------------------------------------------------- how a neuron is split


def test_a_cut_by_hand() -> None:
    """Sums -2, 0, 0, 3 of a teacher that says -1, 0, 1 (0.6 against 0.4), 1: cut below -1 or so and above 0.

    Right are 1 + 1 + 0 + 1: both sums of 0 are one side, so that 0.6 of the third goes; it may have 0.4: 3.4 of 4.
    """
    chances = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0.4, 0.6], [0, 0, 1]])
    cut = best_cut(torch.tensor([-2, 0, 0, 3]), chances, 3)
    assert cut.score == pytest.approx(3.4 / 4)
    assert -2 < cut.low <= 0 <= cut.high < 3
    assert reachable(chances) == pytest.approx(3.6 / 4)


def test_a_cut_is_the_best_of_all() -> None:
    """Against every pair of thresholds, in float64."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        sums = torch.randint(-4, 5, (30,), generator=generator)
        chances = torch.rand(30, 3, generator=generator, dtype=torch.float64)
        chances /= chances.sum(1, keepdim=True)

        def score(low: int, high: int, sums: Tensor = sums, chances: Tensor = chances) -> float:
            found = torch.where(sums < low, 0, torch.where(sums > high, 2, 1))
            return float(chances.gather(1, found[:, None]).mean())

        cut = best_cut(sums, chances, 4)
        assert cut.score == pytest.approx(score(cut.low, cut.high))
        assert cut.score == pytest.approx(max(score(a, b) for a in range(-4, 7) for b in range(a - 1, 6)))


def test_weights_keep_their_sign_and_the_largest_go_first() -> None:
    sums = Sums(torch.tensor([0.1, -0.5, 0.9, -0.2, 0.0]), torch.eye(5))
    assert sums.most == (2, 2)
    assert sums.split(1, 1).weights.tolist() == [0, -1, 1, 0, 0]
    assert sums.split(2, 2).weights.tolist() == [1, -1, 1, -1, 0]
    assert sums.of(1, 2).tolist() == [0, -1, 1, -1, 0]


def test_the_search_by_thirds_finds_a_peak_anywhere() -> None:
    for size in (1, 2, 3, 10, 97):
        for peak in range(size):
            calls: list[int] = []

            def score(i: int, peak: int = peak, calls: list[int] = calls) -> float:
                calls.append(i)
                return -abs(i - peak)

            assert best_along(score, size) == peak
            assert len(calls) <= 2 * math.log(size, 1.5) + 4


def test_small_neurons_are_searched_in_full_where_thirds_fall_short() -> None:
    """A single peak on a plain is not found by thirds, but is where a score below what is wanted makes all count."""

    def needle(i: int, j: int) -> float:
        return float((i, j) == (29, 1))

    assert best_split(needle, (30, 30), wanted=1.0, widest=60) == (29, 1)
    assert best_split(needle, (30, 30), wanted=1.0, widest=59) != (29, 1)


def test_a_ternary_teacher_is_found_again() -> None:
    """A teacher of weights 1, -1 and nearly 0 fires by chance; the student agrees as much as can be, with its signs."""
    torch.manual_seed(0)
    inputs = torch.randint(-1, 2, (2000, 12)).float()
    weights = torch.tensor([1.0, 1, 1, -1, -1, 0.01, -0.01, 0.02, 1, -1, 0.01, -0.02])
    chances = chances_of(0.8 * inputs @ weights)
    torch.testing.assert_close(chances.sum(1), torch.ones(2000))
    split, cut = fit_neuron(weights, inputs, chances, widest=64)
    assert (split.positive, split.negative) == (4, 3)
    assert split.weights.tolist() == weights.round().tolist()
    assert (cut.low, cut.high) == (0, 0)  # at 1 the teacher says 1 with probability tanh(0.8) = 0.66
    assert cut.score == pytest.approx(reachable(chances), rel=1e-3)


def test_a_bias_by_hand() -> None:
    """Class 1 of 2, sums 0, 2, 5 against 3, 3, 3; labels 0, 1, 1: above 1 it wins the second, above 3 the first too."""
    table, labels = torch.tensor([[3, 0], [3, 0], [3, 0]]), torch.tensor([0, 1, 1])
    assert best_bias(torch.tensor([0, 2, 5]), table, labels, 1) == (3, 2)
    # As the first of two a class wins equal scores: with a bias of 1 already.
    assert best_bias(torch.tensor([0, 2, 5]), table.flip(1), 1 - labels, 0) == (3, 1)


def test_the_last_layer_tells_the_classes_apart() -> None:
    """Prototypes with noise: better than rounding the real weights' signs, and what it counts is what argmax gives."""
    torch.manual_seed(0)
    prototypes = torch.randint(-1, 2, (4, 20)).float()
    labels = torch.arange(400) % 4
    noise = torch.randint(-1, 2, (400, 20)) * (torch.rand(400, 20) < 0.6)
    inputs = (prototypes[labels] + noise).clamp(-1, 1)
    real = prototypes + 0.8 * torch.randn(4, 20)
    ternary, bias = fit_classes(real, inputs, labels, widest=64)
    assert set(torch.unique(ternary).tolist()) == {-1, 0, 1}
    assert (ternary * real >= 0).all()
    right = ((inputs @ ternary.T + bias).argmax(1) == labels).float().mean()
    assert right > 0.9
    assert right >= ((inputs @ real.sign().T).argmax(1) == labels).float().mean()


# ---------------------------------------------------------------------------- thresholds of batch normalization


def test_thresholds_fire_as_tanh_behind_batch_normalization_does() -> None:
    """For every sum, for positive, negative and zero slopes; negative ones with negated sums."""
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(60).eval()
    with torch.no_grad():
        norm.weight.copy_(torch.randn(60))
        norm.weight[::10] = 0
        norm.bias.copy_(torch.randn(60))
        norm.running_mean = torch.randn(60) * 3
        norm.running_var = torch.rand(60) * 9
    bias = torch.randn(60)
    flip, low, high = thresholds(norm, bias, 60, 20)
    assert 10 < flip.sum() < 50

    sums = torch.arange(-20.0, 21.0)[:, None].expand(-1, 60)
    expected = TernaryFiring().eval()(norm(sums + bias)).detach()
    assert torch.unique(expected).tolist() == [-1, 0, 1]
    assert torch.equal(Thresholds.of(low, high)(torch.where(flip, -sums, sums)), expected)


def test_thresholds_without_a_norm() -> None:
    """tanh rounds to 1 above 0.5493: with bias 0.2 sums above 0 do, with 0.6 those above -1."""
    _, low, high = thresholds(None, torch.tensor([0.2, 0.6]), 2, 5)
    assert (low.tolist(), high.tolist()) == ([0, -1], [0, -1])


# ---------------------------------------------------------------------------- the method


def test_a_teacher_fires_before_each_layer_but_the_first() -> None:
    stage = stage_of("mlp", hidden=[20, 16], batch_norm=True)
    TNN().prepare(stage=stage)
    found = {a.target: type(a.transform) for a in attached(stage.student.module)}
    assert found == {
        "fc2.weight": DrawnTernary,
        "fc3.weight": DrawnTernary,
        "fc2:input": TernaryFiring,
        "fc3:input": TernaryFiring,
    }
    assert isinstance(stage.student.module.activation, nn.Identity)  # the ReLU has gone

    stage = stage_of("mlp", hidden=[20, 16], batch_norm=True)
    TNN(first="ternary", weights="real").prepare(stage=stage)
    assert {a.target for a in attached(stage.student.module)} == {"fc1:input", "fc2:input", "fc3:input"}


def lively(stage: Stage) -> None:
    """Let batch normalizations of a net have slopes of both signs, and statistics."""
    torch.manual_seed(0)
    for norm in stage.student.module.modules():
        if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d):
            norm.weight.data.normal_()
            norm.bias.data.normal_(std=0.3)
    stage.student.module.train()
    with torch.no_grad():
        for _ in range(20):
            for batch in stage.sample(64):
                stage.task.outputs(stage.student.module, batch)


def outputs(stage: Stage) -> Tensor:
    with evaluating(stage.student.module), torch.no_grad():
        return torch.cat([stage.task.outputs(stage.student.module, batch) for batch in stage.sample(64)])


def test_a_student_of_ternary_weights_computes_what_its_teacher_did() -> None:
    """To the bit, as thresholds are exact: norms and biases are gone, and the hidden layer makes -1, 0 and 1."""
    stage = stage_of("mlp", hidden=[30, 24, 20], batch_norm=True)
    TNN().prepare(stage=stage)
    for weight in stage.weights():
        weight.latent.data.mul_(3)
    lively(stage)
    expected = outputs(stage)
    assert expected.std(0).min() > 0

    student = TNN(phase="student", samples=64)
    student.prepare(stage=stage)
    torch.testing.assert_close(outputs(stage), expected)
    assert student.report(stage=stage)["converted_layers_count"] == 2
    net: Any = stage.student.module
    assert isinstance(net.norm2, nn.Identity)
    assert isinstance(net.norm1, nn.BatchNorm1d)  # the first layer stays real
    assert not net.get_parameter("fc2.bias").any()


def test_a_student_of_real_weights_agrees_with_its_teacher() -> None:
    stage = stage_of("mlp", hidden=[24, 20], batch_norm=True)
    TNN(weights="real").prepare(stage=stage)
    lively(stage)
    teacher = outputs(stage)

    student = TNN(phase="student", weights="real", samples=64)
    student.prepare(stage=stage)
    report = student.report(stage=stage)
    assert report["converted_layers_count"] == 1
    assert report["agreement_percent"] > 80
    assert 0 < report["zeros_percent"] < 100
    found = outputs(stage)
    assert torch.equal(found, found.round())  # whole sums and biases
    labels = torch.cat([batch.labels for batch in stage.sample(64)])
    assert (found.argmax(1) == labels).float().mean() > (teacher.argmax(1) == labels).float().mean()
    for path in ("fc2", "fc3"):
        assert torch.unique(stage.weights().by_path[path].value.detach()).tolist() == [-1, 0, 1]


@pytest.mark.parametrize("weights", ["ternary", "real"])
def test_before_a_sum_a_layer_stays_as_the_teacher_has_it(weights: Any) -> None:
    """In a residual net the first convolution of each block can be converted, the second is named."""
    stage = stage_of("resnet8", width=0.25)
    TNN(weights=weights).prepare(stage=stage)
    lively(stage)
    expected = outputs(stage)
    student = TNN(phase="student", weights=weights, samples=16, places=2)
    student.prepare(stage=stage)
    assert student.report(stage=stage)["converted_layers_count"] == 3
    assert "layer1.0.conv2" in stage.left_out
    assert "layer1.0.conv1" not in stage.left_out
    assert outputs(stage).std() > 0
    if weights == "ternary":
        torch.testing.assert_close(outputs(stage), expected, rtol=1e-4, atol=1e-4)


def test_a_net_without_chains_is_refused() -> None:
    stage = stage_of("mlp", hidden=[20])
    TNN().prepare(stage=stage)
    with pytest.raises(NotApplicable, match="no layer's outputs are fired"):
        TNN(phase="student").prepare(stage=stage)


def test_what_is_no_number_is_refused() -> None:
    stage = stage_of("mlp", hidden=[20])
    stage.weights().by_path["fc2"].latent.data[0, 0] = torch.nan
    with pytest.raises(NotApplicable, match="layer 'fc2' has weights that are not finite"):
        TNN().prepare(stage=stage)


def test_both_phases_of_a_recipe(tmp_path: Path) -> None:
    """The artifact of the student holds whole weights, and gives whole scores."""
    stages = [
        {"name": "teacher", "methods": [{"tnn": {"weights": "real"}}], "epochs": 2},
        {"methods": [{"tnn": {"phase": "student", "weights": "real", "samples": 64}}], "epochs": 0},
    ]
    recipe = parse_recipe(
        {
            "model": {"key": "mlp", "hidden": [24, 16], "batch_norm": True},
            "task": "digits",
            "base": "none",
            "data": {"subset": {"size": 256}},
            "train": {"batch_size": 32, "optimizer": {"name": "adam", "lr": 0.01}},
            "stages": stages,
        }
    )
    done = play(recipe, REGISTRY, tmp_path)
    check_artifact(done, REGISTRY)
    net = load(done.folder / "artifact.safetensors")
    scores = net(torch.rand(5, 1, 8, 8))
    assert torch.equal(scores, scores.round())
    assert torch.unique(net.get_parameter("fc2.weight")).tolist() == [-1, 0, 1]
