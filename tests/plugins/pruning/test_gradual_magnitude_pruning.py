from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.plugins.pruning.nets import run
from tests.plugins.pruning.stages import Given, stage_of
from torch import Tensor, nn

from condensery import NotApplicable, UnknownKey
from condensery.nets import attached
from condensery.run import Stage
from condensery_plugins.pruning.gradual_magnitude_pruning import GradualMagnitudePruning, ramp

MLP = {"key": "mlp", "hidden": [20]}


def gradual(**settings: Any) -> dict[str, Any]:
    return {"gradual-magnitude-pruning": settings}


@pytest.mark.parametrize(("share", "sparsity"), [(0, 0.0), (0.25, 0.4625), (0.5, 0.7), (0.75, 0.7875), (1, 0.8)])
def test_the_cubic_ramp_by_hand(share: float, sparsity: float) -> None:
    """0.8 * (1 - 0.75^3) = 0.8 * 0.578125, 0.8 * (1 - 1/8), 0.8 * (1 - 1/64)."""
    assert ramp(share, 0.0, 0.8) == pytest.approx(sparsity)


def test_the_ramp_starts_at_its_initial_sparsity() -> None:
    assert ramp(0.0, 0.2, 0.8) == pytest.approx(0.2)
    assert ramp(0.5, 0.2, 0.8) == pytest.approx(0.8 - 0.6 / 8)


def test_masks_follow_the_ramp_and_never_open_again(tmp_path: Path) -> None:
    """32 steps, t0 = 4, dt = 2, end at 24: after k of 10 updates 160 * (1 - (1 - k / 10)^3) of 200 weights.

    So 160 * 0.271 = 43.36, 160 * 0.488 = 78.08, 105.12, 125.44, 140, 149.76, 155.68, 158.72, 159.84, 160.
    """
    counts: list[int] = []
    before: list[Tensor] = []

    def look(stage: Stage) -> None:
        if stage.dry:
            return
        second = stage.weights()[1]
        assert second.path == "fc2"
        gone = ~second.alive
        assert bool((second.value[gone] == 0).all())
        if before:
            assert bool((gone | ~before[-1]).all())
        before.append(gone)
        counts.append(int(gone.sum()))

    methods = [gradual(sparsity=0.8, start=0.125, end=0.75, every=2), "look"]
    report = run(tmp_path, [{"methods": methods, "epochs": 8}], MLP, {"before_step": look})
    wanted = [43, 78, 105, 125, 140, 150, 156, 159, 160, 160]
    assert counts == [0] * 6 + [c for c in wanted for _ in range(2)] + [160] * 6
    numbers = report["stages"][0]["report"]
    assert numbers["gradual-magnitude-pruning.sparsity_percent"] == pytest.approx(80.0)
    assert numbers["gradual-magnitude-pruning.updates_count"] == 11


@pytest.mark.parametrize(("epochs", "updates", "largest"), [(10, 11, 43), (3, 10, 48)])
def test_a_short_ramp_is_no_jump(epochs: int, updates: int, largest: int, tmp_path: Path) -> None:
    """By default updates are 100 steps apart. The ramps have 30 steps, an update every third, and 9, one at each.

    The first after the start prunes most: 160 * (1 - 0.9^3) = 43.36 and 160 * (1 - (8 / 9)^3) = 47.6 of 200 weights.
    """
    counts: list[int] = []

    def look(stage: Stage) -> None:
        if not stage.dry:
            counts.append(int((~stage.weights()[1].alive).sum()))

    report = run(tmp_path, [{"methods": [gradual(), "look"], "epochs": epochs}], MLP, {"before_step": look})
    assert report["stages"][0]["report"]["gradual-magnitude-pruning.updates_count"] == updates
    assert counts[-1] == 160
    assert max(b - a for a, b in itertools.pairwise(counts)) == largest


def test_every_layer_gets_the_same_share_but_the_first(tmp_path: Path) -> None:
    def look(stage: Stage) -> None:
        shares = {w.path: float((~w.alive).float().mean()) for w in stage.weights()}
        assert shares == {"fc1": 0.0, "fc2": pytest.approx(0.5), "fc3": pytest.approx(0.5)}

    model = {"key": "mlp", "hidden": [20, 20]}
    run(tmp_path, [{"methods": [gradual(sparsity=0.5, every=1), "look"], "epochs": 2}], model, {"end_stage": look})


def test_depthwise_layers_stay_dense(tmp_path: Path) -> None:
    def look(stage: Stage) -> None:
        pruned = {w.path for w in stage.weights() if not bool(w.alive.all())}
        assert pruned == {"downsample.0", "linear", "conv"}

    methods = [gradual(sparsity=0.5, every=1, skip=[]), "look"]
    run(tmp_path, [{"methods": methods, "epochs": 1}], "mobile-cnn", {"end_stage": look})


def test_recurrent_layers_are_pruned_and_embeddings_stay() -> None:
    """Of an LSTM's weights of 4 * 3 gates by 2 inputs and by 3 states half goes, 12 of 24 and 18 of 36."""
    net = nn.Sequential(nn.Embedding(5, 2), nn.LSTM(2, 3))
    method = GradualMagnitudePruning(sparsity=0.5, end=0.0, skip=[])
    stage = stage_of(net, Given(torch.zeros(2, 1), torch.zeros(2, 1)), epochs=0)
    method.prepare(stage)
    assert {w.name: int((~w.alive).sum()) for w in stage.weights()} == {"1.weight_ih_l0": 12, "1.weight_hh_l0": 18}
    assert {item.target for item in attached(net)} == {"1.weight_ih_l0", "1.weight_hh_l0"}
    assert bool(net[0].get_parameter("weight").all())


def test_a_masked_weight_isnt_trained(tmp_path: Path) -> None:
    """Its gradient is zero, and the value stays zero whatever momentum does to the latent weight."""

    def look(stage: Stage) -> None:
        held = stage.weights()[1]
        stage.gradients(next(iter(stage.task_batches())))
        grad = held.latent.grad
        assert grad is not None
        assert bool((grad[~held.alive] == 0).all())
        assert bool((grad[held.alive] != 0).any())

    methods = [gradual(sparsity=0.9, every=1), "look"]
    run(tmp_path, [{"methods": methods, "epochs": 1}], MLP, {"end_stage": look})


def test_the_learning_rate_at_the_end_of_the_ramp_is_told(tmp_path: Path) -> None:
    """A cosine is at half when half of the steps are over, and at nothing in the end."""
    for end, percent in ((0.5, 50.0), (1.0, 0.0)):
        stage = {"methods": [gradual(end=end, every=4)], "epochs": 2}
        report = run(tmp_path / str(end), [stage], MLP, schedule={"name": "cosine"})
        numbers = report["stages"][0]["report"]
        assert numbers["gradual-magnitude-pruning.learning_rate_at_end_percent"] == pytest.approx(percent, abs=1e-9)
        assert numbers["gradual-magnitude-pruning.sparsity_percent"] == pytest.approx(80.0)


@pytest.mark.parametrize("epochs", [0, 1])
def test_without_a_ramp_it_prunes_at_once(epochs: int, tmp_path: Path) -> None:
    report = run(tmp_path, [{"methods": [gradual(end=0.0)], "epochs": epochs}], MLP)
    numbers = report["stages"][0]["report"]
    assert numbers["gradual-magnitude-pruning.sparsity_percent"] == pytest.approx(80.0)
    assert numbers["gradual-magnitude-pruning.updates_count"] == 1


def test_a_net_of_one_layer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotApplicable, match="no layer is left to prune"):
        run(tmp_path, [{"methods": [gradual()]}], {"key": "mlp", "hidden": []})


def test_a_layer_to_skip_that_isnt_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnknownKey, match=r"^gradual-magnitude-pruning.skip: unknown layer 'fc9'; did you mean 'fc"):
        run(tmp_path, [{"methods": [gradual(skip=["fc9"])]}], MLP)
