from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.plugins.pruning.stages import Given, Signs, stage_of
from torch import Tensor

from condensery import NotApplicable, Registry, Run
from condensery.recipe import parse_recipe
from condensery_plugins.models.mlp import MLP
from condensery_plugins.pruning.masks import mask
from condensery_plugins.pruning.obd import OptimalBrainDamage

torch.set_num_threads(1)


def run(tmp_path: Path, *stages: Any, **changes: Any) -> dict[str, Any]:
    data = {
        "model": {"key": "mlp", "hidden": [20]},
        "task": "digits",
        "base": "none",
        "data": {"subset": {"size": 64}},
        "train": {"batch_size": 16, "epochs": 0},
        "stages": list(stages),
        **changes,
    }
    return Run(parse_recipe(data), Registry.open(), out=tmp_path / "o", device="cpu").execute()


def kept(method: OptimalBrainDamage, weights: list[float], inputs: Tensor) -> list[bool]:
    net = MLP([len(weights), 1])
    with torch.no_grad():
        net.get_parameter("fc1.weight").copy_(torch.tensor([weights]))
    stage = stage_of(net, Given(inputs, torch.zeros(len(inputs), 1)))
    method.prepare(stage)
    assert all(p.grad is None for p in net.parameters())
    alive: list[bool] = stage.weights()[0].alive[0].tolist()
    return alive


@pytest.mark.parametrize("hessian", ["backprop", "gauss-newton", "sampled"])
def test_saliency_by_hand(hessian: Any) -> None:
    """One linear unit, half the squared error: h is the mean of x^2, here 4, 1 and 0.01.

    Of the weights 1, 1.5 and 9 the saliencies are 2, 1.125 and 0.405: the largest weight goes first.
    """
    x = torch.tensor([[2.0, 1.0, 0.1], [-2.0, 1.0, 0.1], [2.0, -1.0, 0.1], [2.0, 1.0, -0.1]])
    gone = {}
    for count in (1, 2):
        method = OptimalBrainDamage(sparsity=count / 3, hessian=hessian, biases=False)
        gone[count] = [not k for k in kept(method, [1.0, 1.5, 9.0], x)]
    assert gone == {1: [False, False, True], 2: [False, True, True]}


def test_identity_ranks_by_size() -> None:
    method = OptimalBrainDamage(sparsity=1 / 3, hessian="identity", biases=False)
    assert kept(method, [1.0, -0.5, 9.0], torch.ones(2, 3)) == [True, False, True]


@pytest.mark.parametrize("hessian", ["backprop", "gauss-newton", "sampled", "fisher", "hutchinson", "identity"])
def test_what_a_mask_holds_counts_as_gone_however_large_it_is(hessian: Any) -> None:
    """The 9 is held at zero; two of three are to go: that and the -0.5, whose saliency is the smaller of the rest.

    Back-propagation gives the 9 a curvature, and size its 9: either would let the 1 go in its place, and nothing stay.
    """
    net = MLP([3, 1])
    with torch.no_grad():
        net.get_parameter("fc1.weight").copy_(torch.tensor([[1.0, -0.5, 9.0]]))
    stage = stage_of(net, Given(torch.ones(2, 3), torch.zeros(2, 1)))
    mask(stage, stage.weights()[0], torch.tensor([[True, True, False]]))
    OptimalBrainDamage(sparsity=2 / 3, hessian=hessian, biases=False).prepare(stage)
    assert stage.weights()[0].alive.tolist() == [[True, False, False]]


@pytest.mark.parametrize("hessian", ["backprop", "identity"])
def test_rounds_over_weights_that_have_grown_reach_the_share(hessian: Any) -> None:
    """1/4, then 2/4, then 3/4 of four weights; in between what a mask holds gets a large number under it."""
    net = MLP([4, 1])
    stage = stage_of(net, Given(torch.ones(2, 4), torch.zeros(2, 1)))
    (weight,) = stage.weights()
    left = []
    for part in (1, 2, 3):
        OptimalBrainDamage(sparsity=part / 4, hessian=hessian, biases=False).prepare(stage)
        left.append(int(weight.alive.sum()))
        with torch.no_grad():
            weight.latent[~weight.alive] = 5.0
    assert left == [3, 2, 1]


def test_counts_by_hand_with_and_without_biases(tmp_path: Path) -> None:
    """64-20-10 has 1,480 weights and 30 biases: half of 1,510 is 755."""
    stage = {"methods": [{"obd": {"hessian": "backprop"}}]}
    report = run(tmp_path, stage)
    assert report["after"]["parameters"] - report["after"]["nonzeros"] == 755
    assert report["stages"][0]["report"]["obd.sparsity_percent"] == pytest.approx(50.0)
    report = run(tmp_path / "b", {"methods": [{"obd": {"hessian": "backprop", "biases": False}}]})
    assert report["after"]["parameters"] - report["after"]["nonzeros"] == 740


def test_steps_and_rounds_reach_the_share(tmp_path: Path) -> None:
    """1 - 0.5^R in rounds, then to 0.9 in three steps within one stage."""
    half = {"methods": [{"obd": {"sparsity": "=1 - 0.5 ** (round + 1)"}}], "epochs": 1}
    last = {"methods": [{"obd": {"sparsity": 0.9, "steps": 3}}], "epochs": 1}
    report = run(tmp_path, {"repeat": 2, "stages": [half]}, last)
    reached = [s["report"]["obd.sparsity_percent"] for s in report["stages"]]
    assert reached == pytest.approx([50.0, 75.0, 90.0], abs=0.1)


@pytest.mark.parametrize(("steps", "epochs"), [(7, 1), (8, 1), (4, 0)])
def test_more_steps_than_batches_still_reach_the_share(steps: int, epochs: int, tmp_path: Path) -> None:
    """An epoch has four batches."""
    report = run(tmp_path, {"methods": [{"obd": {"sparsity": 0.6, "steps": steps}}], "epochs": epochs})
    assert report["stages"][0]["report"]["obd.sparsity_percent"] == pytest.approx(60.0)


def test_the_papers_way_refuses_a_transformer_before_it_trains(tmp_path: Path) -> None:
    stage = {"methods": [{"obd": {"hessian": "backprop"}}], "epochs": 1}
    with pytest.raises(NotApplicable, match="obd is not applicable: hessian 'backprop' can't pass through 'embedding'"):
        run(tmp_path, stage, model={"key": "transformer", "hidden": 24, "depth": 1}, task="word-language")
    assert not (tmp_path / "o").exists()


def test_the_papers_way_takes_a_net_of_doubles(tmp_path: Path) -> None:
    """Such a net asks for its parameters' type as it fits its inputs; half of 64-20-10's 1,510 numbers go."""
    model = {"key": "mlp", "hidden": [20], "dtype": "float64"}
    report = run(tmp_path, {"methods": [{"obd": {"hessian": "backprop"}}]}, model=model)
    assert report["after"]["parameters"] - report["after"]["nonzeros"] == 755


@pytest.mark.parametrize("hessian", ["backprop", "gauss-newton", "sampled", "fisher", "hutchinson"])
def test_every_way_ranks_by_its_own_diagonal(hessian: Any) -> None:
    torch.manual_seed(0)
    draw = torch.Generator().manual_seed(1)
    net = MLP([3, 5, 1], activation="tanh")
    stage = stage_of(net, Given(torch.randn(20, 3, generator=draw), torch.randn(20, 1, generator=draw)))
    method = OptimalBrainDamage(sparsity=0.5, hessian=hessian)
    weights = method.pruned(stage)
    curvature = torch.cat([d.abs().flatten() for d in method.diagonal(stage, weights)])
    saliency = curvature * torch.cat([w.latent.detach().flatten() for w in weights]) ** 2
    method.prepare(stage)
    alive = torch.cat([w.alive.flatten() for w in weights])
    assert int(alive.sum()) == 13  # of 26
    assert saliency[alive].min() >= saliency[~alive].max()


@pytest.mark.parametrize("hessian", ["backprop", "gauss-newton"])
def test_it_hurts_less_than_size_on_a_trained_net(
    hessian: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONDENSERY_CACHE", str(tmp_path / "cache"))
    loss = {}
    for way in (hessian, "identity"):
        stage = {"methods": [{"obd": {"hessian": way, "sparsity": 0.7, "samples": 128, "probes": 16}}]}
        report = run(tmp_path / way, stage, base={"epochs": 15, "batch_size": 16}, data={"subset": {"size": 300}})
        loss[way] = report["after"]["quality"]["loss"]
    assert loss[hessian] < loss["identity"]


def test_hold_keeps_the_fewest_weights_that_will_do() -> None:
    """x1 alone tells the sign. By size 0.1 and 0.2 go and nothing changes; without 3 every output would be 0."""
    x = torch.tensor([[1.0, 1.0, -1.0], [-1.0, 1.0, 1.0], [2.0, -1.0, 1.0], [-2.0, -1.0, -1.0]])
    net = MLP([3, 1])
    with torch.no_grad():
        net.get_parameter("fc1.weight").copy_(torch.tensor([[3.0, 0.1, 0.2]]))
        net.get_parameter("fc1.bias").zero_()
    stage = stage_of(net, Signs(x, x[:, :1]))
    OptimalBrainDamage(hold=True, sparsity=0.99, hessian="identity", biases=False).prepare(stage)
    (weight,) = stage.weights()
    assert weight.value.tolist() == [[3.0, 0.0, 0.0]]
    assert weight.alive.tolist() == [[True, False, False]]


def test_hold_goes_back_behind_what_did_harm() -> None:
    """x1 + x2 tells the sign, and both have the same small weight: the first that goes does harm, so none does."""
    x = torch.tensor([[2.0, -1.0, 0.0], [-1.0, 2.0, 0.0], [-2.0, 1.0, 0.0], [1.0, -2.0, 0.0]])
    net = MLP([3, 1])
    with torch.no_grad():
        net.get_parameter("fc1.weight").copy_(torch.tensor([[0.1, 0.1, 3.0]]))
        net.get_parameter("fc1.bias").zero_()
    stage = stage_of(net, Signs(x, x.sum(1, keepdim=True)))
    OptimalBrainDamage(hold=True, sparsity=0.9, hessian="identity", biases=False).prepare(stage)
    (weight,) = stage.weights()
    assert weight.value.tolist() == [[pytest.approx(0.1), pytest.approx(0.1), 3.0]]
