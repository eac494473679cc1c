from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.plugins.pruning.nets import run

from condensery.nets import CONVS
from condensery.run import Stage
from condensery_plugins.pruning.filters import hold_filters
from condensery_plugins.pruning.soft_filter_pruning import weakest

MODEL = {"key": "resnet8", "width": 0.5}
FLOORS = {8: 2, 16: 4, 32: 9}
"""floor(N * 0.3) for the widths of MODEL."""


def zeros(stage: Stage) -> dict[str, int]:
    """Return how many filters of each convolution are zero in the latent weights."""
    return {w.path: int((w.latent.detach().flatten(1) == 0).all(1).sum()) for w in stage.weights(kinds=CONVS)}


def floors(stage: Stage) -> dict[str, int]:
    return {w.path: FLOORS[len(w.latent)] for w in stage.weights(kinds=CONVS)}


def test_the_smallest_norms_go() -> None:
    """Five filters at 0.5: two go; of the equal ones the first."""
    assert weakest(torch.tensor([3.0, 1.0, 2.0, 0.5, 1.0]), 0.5).tolist() == [False, True, False, True, False]


@pytest.mark.parametrize(("p", "gone"), [(1, [0]), (2, [1])])
def test_norms_by_hand(p: int, gone: list[int], tmp_path: Path) -> None:
    """Filter 0 has one weight of 3, filter 1 two of 1.6: L1 3 against 3.2, L2 3 against 2.26; the others are larger."""

    def fill(stage: Stage) -> None:
        weight = stage.weights(kinds=CONVS)[0].latent
        with torch.no_grad():
            weight.fill_(2.0)
            weight[:2] = 0.0
            weight[0, 0, 0, 0] = 3.0
            weight[1, 0].view(-1)[:2] = 1.6

    def look(stage: Stage) -> None:
        weight = stage.weights(kinds=CONVS)[0].latent.detach()
        assert (weight.flatten(1) == 0).all(1).nonzero().flatten().tolist() == gone

    methods = [{"soft-filter-pruning": {"ratio": 0.25, "p": p}}, "look"]
    stage = {"methods": methods, "epochs": 1, "train": {"optimizer": {"lr": 1e-9}}}
    run(tmp_path, [stage], "plain-cnn", {"prepare": fill, "after_epoch": look})


def test_each_epoch_ends_with_the_floor_of_zero_filters_which_grow_again(tmp_path: Path) -> None:
    seen = []

    def before(stage: Stage) -> None:
        if not stage.dry and stage.step == stage.steps_per_epoch:
            assert zeros(stage) == floors(stage)
        elif not stage.dry and stage.step == stage.steps_per_epoch + 1:
            assert set(zeros(stage).values()) == {0}  # one step is enough: they get gradients, nothing masks them

    def look(stage: Stage) -> None:
        assert zeros(stage) == floors(stage)
        assert all(bool(w.alive.all()) for w in stage.weights())
        seen.append(stage.epoch)

    methods = [{"soft-filter-pruning": {"ratio": 0.3}}, "look"]
    report = run(tmp_path, [{"methods": methods, "epochs": 2}], MODEL, {"before_step": before, "after_epoch": look})
    assert seen[-2:] == [0, 1]
    numbers = report["stages"][0]["report"]
    total = 2 * 3 + 4 * 2 + 9 * 2  # stem and two layers of 8, two of 16, two of 32
    assert numbers["soft-filter-pruning.filters_zeroed_count"] == total
    assert numbers["soft-filter-pruning.filters_regrown_count"] == total
    assert numbers["soft-filter-pruning.filters_removed_percent"] == pytest.approx(100 * total / (8 * 3 + 32 + 64))
    assert numbers["soft-filter-pruning.filters_cut_percent"] == pytest.approx(100 * (2 + 4 + 9) / (8 * 3 + 32 + 64))
    assert report["after"]["macs"] < report["before"]["macs"]


def test_what_is_removed_stays_removed(tmp_path: Path) -> None:
    stages = [{"methods": ["soft-filter-pruning"], "epochs": 1}, {"methods": ["look"], "epochs": 2}]

    def look(stage: Stage) -> None:
        left = [int((w.value.flatten(1) != 0).any(1).sum()) for w in stage.weights(kinds=CONVS)]
        assert left == [6, 6, 6, 12, 12, 23, 23]

    run(tmp_path, stages, MODEL, {"after_epoch": look})


def test_an_interval_leaves_epochs_out_but_not_the_last(tmp_path: Path) -> None:
    counts = []

    def look(stage: Stage) -> None:
        if not stage.dry:
            counts.append(sum(zeros(stage).values()))

    methods = [{"soft-filter-pruning": {"interval": 2}}, "look"]
    run(tmp_path, [{"methods": methods, "epochs": 3}], MODEL, {"after_epoch": look})
    assert counts == [0, 32, 32]


def test_under_a_quantizer_the_latent_weights_are_zeroed(tmp_path: Path) -> None:
    def look(stage: Stage) -> None:
        assert zeros(stage) == floors(stage)
        for weight in stage.weights(kinds=CONVS):
            gone = (weight.latent.detach().flatten(1) == 0).all(1)
            assert bool((weight.value[gone] == 0).all())
            assert bool((weight.value[~gone] != 0).flatten(1).any(1).all())

    stages = [{"methods": ["lsq"], "epochs": 1}, {"methods": ["soft-filter-pruning", "look"], "epochs": 1}]
    run(tmp_path, stages, MODEL, {"after_epoch": look})


def test_filters_that_a_mask_holds_dont_count(tmp_path: Path) -> None:
    """Two of conv1's 4 filters and three of conv2's 6 are held at zero; of the others, 2 and 3, half goes: 1 and 1.

    Both grow again in the second epoch; a held one never does.
    """

    def hold(stage: Stage) -> None:
        hold_filters(stage, {"conv1": torch.arange(4) < 2, "conv2": torch.arange(6) < 3})

    def look(stage: Stage) -> None:
        gone = {w.path: (w.latent.detach().flatten(1) == 0).all(1) for w in stage.weights(kinds=CONVS)}
        assert {p: int(g.sum()) for p, g in gone.items()} == {"conv1": 1, "conv2": 1}
        assert not gone["conv1"][:2].any()
        assert not gone["conv2"][:3].any()

    methods = ["look", {"soft-filter-pruning": {"ratio": 0.5}}]
    stages = [{"methods": methods, "epochs": 2}]
    report = run(tmp_path, stages, "plain-cnn", {"prepare": hold, "end_stage": look})["stages"][0]["report"]
    assert report["soft-filter-pruning.filters_zeroed_count"] == 2
    assert report["soft-filter-pruning.filters_regrown_count"] == 2
    assert report["soft-filter-pruning.filters_removed_percent"] == 40.0


def test_without_epochs_it_prunes_once(tmp_path: Path) -> None:
    report = run(tmp_path, [{"methods": [{"soft-filter-pruning": {"ratio": 0.5}}], "epochs": 0}], MODEL)
    assert report["stages"][0]["report"]["soft-filter-pruning.filters_removed_percent"] == 50.0


def test_coupled_layers_can_be_left_alone(tmp_path: Path) -> None:
    stages = [{"methods": [{"soft-filter-pruning": {"ratio": 0.5, "coupled": "leave"}}], "epochs": 1}]
    report = run(tmp_path, stages, {"key": "resnet8", "width": 0.5})["stages"][0]["report"]
    assert report["soft-filter-pruning.filters_zeroed_count"] == 4 + 8 + 16
    assert report["soft-filter-pruning.filters_cut_percent"] == 50.0
