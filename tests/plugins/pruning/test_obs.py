from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.plugins.pruning.stages import Given, Signs, stage_of
from torch import Tensor

from condensery import Registry, Run
from condensery.recipe import parse_recipe
from condensery.run import Stage
from condensery_plugins.models.mlp import MLP
from condensery_plugins.pruning.obs import OptimalBrainSurgeon

torch.set_num_threads(1)


def linear_problem() -> tuple[Tensor, Tensor, np.ndarray]:
    """Return inputs, targets and the least squares solution, the bias last."""
    draw = torch.Generator().manual_seed(5)
    x = torch.randn(40, 4, generator=draw) + torch.tensor([0.5, 0.0, -1.0, 0.2])
    y = x @ torch.tensor([[1.0], [-0.3], [0.8], [0.1]]) + 0.4 + 0.3 * torch.randn(40, 1, generator=draw)
    return x, y, solve(x, y, [True] * 5)


def solve(x: Tensor, y: Tensor, alive: list[bool]) -> np.ndarray:
    design = np.hstack([x.double().numpy(), np.ones((len(x), 1))])
    full = np.zeros(5)
    full[alive] = np.linalg.lstsq(design[:, alive], y.double().numpy()[:, 0], rcond=None)[0]
    return full


def fitted(best: np.ndarray) -> MLP:
    net = MLP([4, 1]).double()
    with torch.no_grad():
        net.get_parameter("fc1.weight").copy_(torch.from_numpy(best[None, :4]))
        net.get_parameter("fc1.bias").copy_(torch.from_numpy(best[4:]))
    return net


def state(stage: Stage) -> tuple[np.ndarray, list[bool]]:
    weights = stage.weights() + stage.weights(tensor="bias")
    values = torch.cat([w.value.flatten() for w in weights]).numpy()
    return values, torch.cat([w.alive.flatten() for w in weights]).tolist()


def loss(stage: Stage) -> float:
    (batch,) = stage.task.batches("train", batch_size=1000)
    found = stage.task.loss(stage.student.module(batch.inputs), batch)
    assert found is not None
    return float(found.detach())


@pytest.mark.parametrize("refresh", [0, 1, 2])
def test_a_linear_fit_stays_the_best_one_without_what_went(refresh: int) -> None:
    x, y, best = linear_problem()
    stage = stage_of(fitted(best), Given(x.double(), y.double()))
    before, first = loss(stage), 0.0
    for count in (1, 3):
        method = OptimalBrainSurgeon(sparsity=count / 5, samples=40, alpha=1e-10, refresh=refresh)
        method.prepare(stage)
        values, alive = state(stage)
        assert sum(alive) == 5 - count
        np.testing.assert_allclose(values, solve(x, y, alive), rtol=1e-6)
        rise = loss(stage) - before
        assert rise == pytest.approx(method.increase_ + first, rel=1e-5)
        first = method.increase_
        assert method.report(stage) == {
            "sparsity_percent": pytest.approx(20.0 * count),
            "net_sparsity_percent": pytest.approx(20.0 * count),
            "reached_percent": 100.0,
            "predicted_loss_increase": method.increase_,
        }


def test_without_biases_the_bias_stays_where_it_is() -> None:
    x, y, best = linear_problem()
    stage = stage_of(fitted(best), Given(x.double(), y.double()))
    OptimalBrainSurgeon(sparsity=0.5, samples=40, alpha=1e-10, biases=False).prepare(stage)
    values, alive = state(stage)
    assert sum(alive) == 3
    assert values[4] == best[4]
    rest = y.double().numpy()[:, 0] - best[4]
    expected = np.linalg.lstsq(x.double().numpy()[:, alive[:4]], rest, rcond=None)[0]
    np.testing.assert_allclose(values[:4][alive[:4]], expected, rtol=1e-6)


def test_the_limit_is_a_share_of_the_loss() -> None:
    """The loss at the best fit is E; the saliency of the cheapest weight s: a limit just below s / E keeps all."""
    x, y, best = linear_problem()
    probe = OptimalBrainSurgeon(sparsity=0.2, samples=40, alpha=1e-10)
    stage = stage_of(fitted(best), Given(x.double(), y.double()))
    start = loss(stage)
    probe.prepare(stage)
    share = probe.increase_ / start
    for factor, left in ((0.99, 5), (1.01, 4)):
        stage = stage_of(fitted(best), Given(x.double(), y.double()))
        OptimalBrainSurgeon(sparsity=0.8, samples=40, alpha=1e-10, limit=factor * share, refresh=1).prepare(stage)
        assert sum(state(stage)[1]) == left


def test_blocks_correct_only_inside() -> None:
    """In blocks of one nothing is corrected: what is left keeps its value."""
    x, y, best = linear_problem()
    stage = stage_of(fitted(best), Given(x.double(), y.double()))
    OptimalBrainSurgeon(sparsity=0.4, samples=40, whole=4, block=1).prepare(stage)
    values, alive = state(stage)
    assert sum(alive) == 3
    np.testing.assert_array_equal(values[alive], best[alive])


def test_a_net_with_hundreds_of_weights_is_corrected_as_a_whole() -> None:
    """A linear fit of 150 weights: after 50 deletions it is the best one without these, wherever they are."""
    draw = torch.Generator().manual_seed(2)
    x = torch.randn(400, 150, generator=draw, dtype=torch.float64) + 0.5
    y = x @ torch.randn(150, 1, generator=draw, dtype=torch.float64) + torch.randn(
        400, 1, generator=draw, dtype=torch.float64
    )
    net = MLP([150, 1]).double()
    with torch.no_grad():
        net.get_parameter("fc1.bias").zero_()
        net.get_parameter("fc1.weight").copy_(torch.linalg.lstsq(x, y).solution.T)
    stage = stage_of(net, Given(x, y))
    OptimalBrainSurgeon(sparsity=1 / 3, samples=400, alpha=1e-10, biases=False).prepare(stage)
    (weight,) = stage.weights()
    alive = weight.alive[0]
    assert int(alive.sum()) == 100
    expected = torch.linalg.lstsq(x[:, alive], y).solution[:, 0]
    torch.testing.assert_close(weight.value[0, alive], expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(("whole", "moved"), [(21, {"fc1", "fc2"}), (20, {"fc1"})])
def test_blocks_of_a_larger_net_end_where_a_layer_does(whole: int, moved: set[str]) -> None:
    """3 * 4 + 4 + 4 + 1 = 21 parameters; the one that goes is of the first layer's weights."""
    torch.manual_seed(0)
    net = MLP([3, 4, 1], activation="tanh").double()
    with torch.no_grad():
        net.get_parameter("fc1.weight")[2, 1] = 1e-6
    before = {n: p.detach().clone() for n, p in net.named_parameters()}
    draw = torch.Generator().manual_seed(1)
    x, y = (torch.randn(30, n, generator=draw, dtype=torch.float64) for n in (3, 1))
    stage = stage_of(net, Given(x, y))
    OptimalBrainSurgeon(sparsity=1 / 21, samples=30, whole=whole).prepare(stage)
    assert not stage.weights()[0].alive[2, 1]
    weights = stage.weights() + stage.weights(tensor="bias")
    changed = {w.path for w in weights if (w.value - before[w.name])[w.alive].abs().sum() > 0}
    assert changed == moved


@pytest.mark.parametrize(
    ("tensors", "sizes"),
    [([3990, 10], [4000]), ([3990, 11], [64] * 62 + [22, 11]), ([70, 4000, 3], [64, 6, *[64] * 62, 32, 3])],
)
def test_blocks_by_hand(tensors: list[int], sizes: list[int]) -> None:
    """4,000 parameters are one block; more are cut into blocks of 64, each tensor by itself."""
    assert OptimalBrainSurgeon()._sizes(tensors) == sizes


def test_it_hurts_less_than_size_on_a_trained_net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONDENSERY_CACHE", str(tmp_path / "cache"))
    found: dict[str, Any] = {}
    for method in ({"obs": {"samples": 60, "hessian": "gauss-newton"}}, {"obd": {"hessian": "identity"}}):
        (key,) = method
        data = {
            "model": {"key": "mlp", "hidden": [12], "activation": "tanh"},
            "task": "digits",
            "base": {"epochs": 15, "batch_size": 16},
            "data": {"subset": {"size": 300}},
            "stages": [{"methods": [{key: {"sparsity": 0.7, **method[key]}}], "epochs": 0}],
        }
        recipe = parse_recipe(data)
        found[key] = Run(recipe, Registry.open(), out=tmp_path / key, device="cpu").execute()["after"]
    assert found["obs"]["nonzeros"] == found["obd"]["nonzeros"]
    assert found["obs"]["quality"]["loss"] < found["obd"]["quality"]["loss"]


def test_weights_that_went_stay_at_zero_while_training_goes_on(tmp_path: Path) -> None:
    data = {
        "model": {"key": "mlp", "hidden": [2], "activation": "sigmoid", "output": "sigmoid"},
        "task": {"key": "monk", "problem": 2},
        "base": "none",
        "train": {"batch_size": 16, "optimizer": {"name": "adam", "lr": 0.05, "weight_decay": 0.001}},
        "stages": [
            {
                "repeat": 4,
                "until": "nonzeros <= 19",
                "stages": [{"methods": [{"obs": {"sparsity": "=(round + 1) * 10 / 39"}}]}],
            }
        ],
    }
    report = Run(parse_recipe(data), Registry.open(), out=tmp_path / "o", device="cpu").execute()
    assert report["before"]["parameters"] == 39  # 17-2-1 with biases, as the paper counts
    assert len(report["stages"]) == 2
    assert report["after"]["nonzeros"] == 19


def test_hold_predicts_the_loss_of_what_it_kept_alone() -> None:
    """x1 alone tells the sign: more is tried with a larger share, and taken back, which costs nothing."""
    predicted = []
    for share in (0.67, 0.99):
        x = torch.tensor([[1.0, 1.0, -1.0], [-1.0, 1.0, 1.0], [2.0, -1.0, 1.0], [-2.0, -1.0, -1.0]])
        net = MLP([3, 2, 1])
        with torch.no_grad():
            net.get_parameter("fc1.weight").copy_(torch.tensor([[3.0, 0.1, 0.2], [-3.0, 0.2, 0.1]]))
            net.get_parameter("fc2.weight").copy_(torch.tensor([[1.0, -1.0]]))
            for layer in ("fc1", "fc2"):
                net.get_parameter(f"{layer}.bias").zero_()
        stage = stage_of(net, Signs(x, x[:, :1]))
        method = OptimalBrainSurgeon(hold=True, sparsity=share, biases=False, samples=4)
        method.prepare(stage)
        predicted.append((sum(int(w.alive.sum()) for w in stage.weights()), method.increase_))
    assert predicted[0] == predicted[1]
