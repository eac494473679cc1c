from __future__ import annotations

import math
from pathlib import Path
from statistics import NormalDist
from typing import Any

import pytest
import torch
from tests.plugins.pruning.nets import run
from tests.plugins.pruning.stages import Given, stage_of
from torch import Tensor, nn

from condensery import Registry
from condensery.nets import attached
from condensery.run import Stage
from condensery.testing import different_tensors, play, play_killed, small_recipe
from condensery_plugins.pruning.activation_gradient_pruning_dbtd import (
    ActivationGradientPruningDBTD,
    GradientPruner,
    prune,
    threshold_factor,
)

DBTD = "activation-gradient-pruning-dbtd"


def received(pruner: GradientPruner, gradient: Tensor) -> Tensor:
    """Return what comes out of backward for a gradient."""
    value = torch.zeros_like(gradient, requires_grad=True)
    pruner(value).backward(gradient)
    assert value.grad is not None
    return value.grad


@pytest.mark.parametrize(("rate", "factor"), [(0.7, 1.299), (0.8, 1.606), (0.9, 2.062), (0.99, 3.228)])
def test_the_threshold_by_hand(rate: float, factor: float) -> None:
    """PhiInverse(0.95) = 1.64485 times sqrt(pi / 2) = 1.25331 is 2.062; the other three likewise."""
    assert threshold_factor(rate) == pytest.approx(factor, abs=1e-3)


def test_what_each_entry_may_become() -> None:
    torch.manual_seed(0)
    gradient = torch.tensor([0.0, 0.1, -0.5, 0.99, 1.0, -3.0]).repeat(500, 1)
    pruned = prune(gradient, torch.tensor(1.0))
    options = [set(column.unique().tolist()) for column in pruned.T]
    assert options == [{0.0}, {0.0, 1.0}, {0.0, -1.0}, {0.0, 1.0}, {1.0}, {-3.0}]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_expectation_is_kept(dtype: torch.dtype) -> None:
    """An entry g is +-tau with probability |g| / tau: variance |g| * (tau - |g|), which gives 5 standard errors."""
    torch.manual_seed(1)
    draws = 40_000
    entries = torch.tensor([0.0, 0.02, -0.1, 0.3, -0.5, 0.69, -0.71, 2.0], dtype=dtype)
    tau = torch.tensor(0.7)
    means = prune(entries.repeat(draws, 1), tau).double().mean(0)
    for entry, mean in zip(entries.double().tolist(), means.tolist(), strict=True):
        variance = max(0.0, abs(entry) * (float(tau.to(dtype)) - abs(entry)))
        assert abs(mean - entry) <= 5 * math.sqrt(variance / draws), entry


@pytest.mark.parametrize("rate", [0.7, 0.9, 0.99])
def test_the_density_on_normal_gradients(rate: float) -> None:
    """Non-zero stay 1 - p above tau, and below it a share E|g| / tau: sqrt(2 / pi) * (1 - exp(-z^2 / 2)) / z."""
    torch.manual_seed(2)
    pruner = GradientPruner(rate, 1)
    for _ in range(2):
        received(pruner, 3e-4 * torch.randn(500, 1000))
    z = NormalDist().inv_cdf((1 + rate) / 2)
    expected = (1 - rate) + math.sqrt(2 / math.pi) * (1 - math.exp(-z * z / 2)) / z
    assert float(pruner.entries) == float(pruner.before) == 500_000  # the first pass only filled the queue
    found = float(pruner.after) / float(pruner.entries)
    assert found == pytest.approx(expected, abs=5 * math.sqrt(0.25 / 500_000) + 1e-3)
    assert 1 - rate < found < 0.75


def test_the_threshold_is_the_mean_of_the_last_passes() -> None:
    """Gradients of 1, then 3, then 5: with a queue of two nothing is pruned twice; then tau is 2 and 4 factors."""
    torch.manual_seed(3)
    pruner = GradientPruner(0.9, 2)
    factor = threshold_factor(0.9)
    for size in (1.0, 3.0):
        assert received(pruner, torch.full((100,), size)).tolist() == [size] * 100
    assert pruner.past.tolist() == pytest.approx([factor, 3 * factor])
    third = received(pruner, torch.full((1000,), 1.0))
    assert sorted(set(third.tolist())) == pytest.approx([0.0, 2 * factor])
    assert pruner.past.tolist() == pytest.approx([3 * factor, factor])


def test_without_pruning_the_gradient_is_what_it_was() -> None:
    value = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    state = torch.get_rng_state()
    off = GradientPruner(0.0, 1)
    assert torch.autograd.gradcheck(lambda v: off(v).sin() * 2, (value,))
    assert torch.equal(torch.get_rng_state(), state)  # and nothing is drawn
    gradient = torch.randn(50)
    assert torch.equal(prune(gradient, torch.tensor(0.0)), gradient)


def test_activations_pass_and_nothing_happens_outside_of_training() -> None:
    pruner = GradientPruner(0.9, 1)
    value = torch.randn(5, requires_grad=True)
    assert torch.equal(pruner(value), value)
    with torch.no_grad():
        assert pruner(value) is value
    assert pruner.eval()(value) is value


def test_a_gradient_that_is_not_a_number_is_not_hidden() -> None:
    pruned = prune(torch.tensor([float("nan"), 0.1]), torch.tensor(1.0))
    assert bool(torch.isnan(pruned[0]))


def sites(stage: Stage) -> dict[str, float]:
    found = attached(stage.student.module)
    return {a.target: a.transform.rate for a in found if isinstance(a.transform, GradientPruner)}


def test_where_it_prunes(tmp_path: Path) -> None:
    """Behind a norm: what reaches the convolution. Without one: what it hands on, but for the first layer."""

    def behind_norms(stage: Stage) -> None:
        rates = sites(stage)
        assert rates.pop("linear:output") == 0.0
        assert set(rates.values()) == {0.8}
        assert "layer1.0.conv1:output" in rates
        assert len(rates) == 7

    def without(stage: Stage) -> None:
        assert sites(stage) == {"conv1:output": 0.0, "conv2:input": 0.8, "conv2:output": 0.0, "linear:output": 0.0}

    stage = {"methods": [{DBTD: {"rate": 0.8}}, "look"], "epochs": 0}
    run(tmp_path / "a", [stage], {"key": "resnet8", "width": 0.5}, {"prepare": behind_norms})
    run(tmp_path / "b", [stage], "plain-cnn", {"prepare": without})


def test_linear_layers_are_pruned_when_asked_for(tmp_path: Path) -> None:
    def look(stage: Stage) -> None:
        rates = sites(stage)
        assert rates["blocks.0.mlp.fc1:output"] == 0.9
        assert rates["head:output"] == 0.0

    stage = {"methods": [{DBTD: {"linear": True, "window": 1}}, "look"], "epochs": 1}
    report = run(tmp_path, [stage], {"key": "vit", "dim": 24, "depth": 2, "patch_size": 4}, {"prepare": look})
    numbers = report["stages"][0]["report"]
    assert 5 < numbers[f"{DBTD}.density_percent"] < numbers[f"{DBTD}.density_before_percent"]
    assert numbers[f"{DBTD}.backward_macs_saved_percent"] > 30


def test_the_work_saved_by_hand(tmp_path: Path) -> None:
    """Plain net on one channel: an entry behind conv1 is worth 9 (weights only), behind conv2 2 * 36, linear 2 * 6.

    Of 100 entries each are left 50, 25 and 100: 900 + 7,200 + 1,200 become 450 + 1,800 + 1,200.
    """
    left = {"conv1:output": 50, "conv2:output": 25, "linear:output": 100}

    def fill(stage: Stage) -> None:
        for item in attached(stage.student.module):
            pruner = item.transform
            if isinstance(pruner, GradientPruner):
                pruner.entries.fill_(100)
                pruner.before.fill_(80)
                pruner.after.fill_(left.get(item.target, 40))

    report = run(tmp_path, [{"methods": [DBTD, "look"], "epochs": 0}], "plain-cnn", {"end_stage": fill})
    numbers = {n.removeprefix(f"{DBTD}."): v for n, v in report["stages"][0]["report"].items()}
    assert numbers == {
        "density_percent.conv2.input": 40.0,
        "density_percent": 40.0,
        "density_before_percent": 80.0,
        "backward_macs_saved_percent": pytest.approx(100 * (1 - 3450 / 9300)),
    }


@pytest.mark.parametrize(("epochs", "pruned"), [(0, False), (1, False), (2, True)])
def test_what_was_never_measured_is_left_out_and_named(epochs: int, pruned: bool, tmp_path: Path) -> None:
    """An epoch has four steps: with a queue of four the first pass that prunes is the second epoch's first."""
    stage = {"methods": [{DBTD: {"window": 4}}], "epochs": epochs}
    (entry,) = run(tmp_path, [stage], "plain-cnn")["stages"]
    assert (f"{DBTD}.density_percent" in entry["report"]) is pruned
    if pruned:
        assert entry["report"][f"{DBTD}.density_percent"] < entry["report"][f"{DBTD}.density_before_percent"]
        assert "left_out" not in entry
    else:
        assert entry["report"] == {}
        why = "nothing was pruned: its threshold comes from 4 backward passes, and none came after that"
        assert entry["left_out"] == {"conv2:input": why}


def test_the_gradient_that_both_products_use_is_the_pruned_one(tmp_path: Path) -> None:
    """Without norms conv2's input gradient is pruned, here at 0.9: conv1's weight gradient differs, conv2's doesn't.

    With a rate of nearly 0 both are those of the plain net.
    """

    def gradients(rate: float | None) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}

        def look(stage: Stage) -> None:
            batch = next(iter(stage.task_batches()))
            for _ in range(2):  # the second pass prunes
                stage.student.module.zero_grad()
                stage.gradients(batch)
            for weight in stage.weights():
                assert weight.latent.grad is not None
                found[weight.path] = weight.latent.grad.clone()

        methods: list[Any] = ["look"] if rate is None else [{DBTD: {"rate": rate, "window": 1}}, "look"]
        folder = tmp_path / str(rate)
        run(folder, [{"methods": methods, "epochs": 0}], "plain-cnn", {"end_stage": look})
        return found

    plain, off, on = gradients(None), gradients(1e-9), gradients(0.9)
    for path in plain:
        assert torch.equal(plain[path], off[path])
    assert torch.equal(plain["conv2"], on["conv2"])  # conv2's own output gradient isn't pruned
    assert not torch.equal(plain["conv1"], on["conv1"])


def test_in_front_of_a_norm_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inputs x = (-1/2, -1/2, 1/2, 1/2) and weight 2 give outputs (-1, -1, 1, 1), of mean 0 and variance 1.

    So the norm leaves them as they are, and takes out of a gradient its mean and its share along them: of
    (6, 0, 8, 6) = 5 + 2 * (-1, -1, 1, 1) + (3, -3, 1, -1) the convolution gets the last. With tau = 4 and draws
    (0.5, 0.9, 0.5, 0.1) its entries are compared with 2, 3.6, 2 and 0.4: (4, 0, 0, -4) is left. Both products use it:
    the weight's gradient is 4 * -1/2 - 4 * 1/2 = -4, where the whole gradient gives 0, and the input's twice (4, 0, 0,
    -4). What is behind the norm stays: its scale gets -6 - 0 + 8 + 6 = 8 and its shift 20.
    """
    net = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.BatchNorm2d(1, eps=1e-12)).double()
    x = torch.tensor([-0.5, -0.5, 0.5, 0.5]).double().view(4, 1, 1, 1)
    nn.init.constant_(net[0].get_parameter("weight"), 2.0)
    method = ActivationGradientPruningDBTD(window=1)
    method.prepare(stage_of(net, Given(x, torch.zeros(4, 1))))
    ((target, pruner),) = [(a.target, a.transform) for a in attached(net)]
    assert isinstance(pruner, GradientPruner)
    assert target == "0:output"
    pruner.past.fill_(4.0)
    pruner.passes.fill_(1)
    draws = torch.tensor([0.5, 0.9, 0.5, 0.1]).view(4, 1, 1, 1)
    monkeypatch.setattr(torch, "rand_like", lambda like, **options: draws)
    x.requires_grad_()
    net.train()(x).backward(torch.tensor([6.0, 0.0, 8.0, 6.0]).double().view(4, 1, 1, 1))
    assert x.grad is not None
    assert x.grad.flatten().tolist() == pytest.approx([8.0, 0.0, 0.0, -8.0])
    found = [p.grad.item() for p in net.parameters() if p.grad is not None]
    assert found == pytest.approx([-4.0, 8.0, 20.0])


def test_a_resumed_run_is_bit_equal_while_it_prunes(tmp_path: Path) -> None:
    registry = Registry.open()
    what = small_recipe("CNN", [{"name": "pruned", "methods": [{DBTD: {"window": 1}}], "epochs": 2}])
    whole = play(what, registry, tmp_path / "whole")

    play_killed(what, registry, tmp_path / "killed", "pruned")
    again = play(what, registry, tmp_path / "killed", resume=True)
    assert different_tensors(whole.student, again.student) == []

    report = whole.run.stages[-1]["report"]
    assert report == again.run.stages[-1]["report"]
    assert report[f"{DBTD}.density_percent"] < 90
