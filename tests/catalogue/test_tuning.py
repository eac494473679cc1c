"""Each arm's settings are chosen on examples that its training didn't see, and on nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.catalogue.made_up import SMALL, plan

from condensery import Registry, UsageError
from condensery.errors import NonFiniteLoss
from condensery.recipe import Recipe, parse_recipe
from condensery.tasks import Subset, build_task
from condensery_catalogue.reproduce import run_arms
from condensery_catalogue.running import RunOptions
from condensery_catalogue.tuning import best, combinations, held_out, score

REGISTRY = Registry.open()


def recipe(**changed: Any) -> Recipe:
    return parse_recipe({**SMALL, "stages": [{"name": "longer"}], **changed})


@pytest.mark.parametrize("subset", [None, {"size": 64}, {"size": 60, "without": [3]}])
def test_what_is_held_out_and_what_is_trained_on_make_the_whole(subset: dict[str, Any] | None) -> None:
    given = recipe(data={"subset": subset})
    task = build_task(given.task, REGISTRY)
    smaller, held = held_out(task, given, 16)
    labels = torch.cat([b.labels for b in task.batches("train", batch_size=500) if b.labels is not None])

    def picked(spec: Any) -> set[int]:
        return set(Subset(spec.size, spec.per_class, tuple(spec.without)).pick(labels).tolist())

    assert smaller.data.subset is not None
    aside, seen = set(held.pick(labels).tolist()), picked(smaller.data.subset)
    assert len(aside) == 16
    assert not aside & seen
    assert aside | seen == (picked(given.data.subset) if subset else set(range(len(labels))))


def test_too_many_held_out_and_data_of_a_stage_are_refused() -> None:
    task = build_task(recipe().task, REGISTRY)
    with pytest.raises(UsageError, match="held_out 64 leaves none of 64 training examples"):
        held_out(task, recipe(), 64)
    own = recipe(stages=[{"name": "own", "data": {"subset": {"size": 8}}}])
    with pytest.raises(UsageError, match="a grid needs stages that share the recipe's data"):
        held_out(task, own, 16)


def test_a_grid_has_every_combination_in_order() -> None:
    assert combinations({"a": [1, 2], "b": ["x", "y"]}) == [
        {"a": 1, "b": "x"},
        {"a": 1, "b": "y"},
        {"a": 2, "b": "x"},
        {"a": 2, "b": "y"},
    ]


def test_the_best_is_the_first_of_the_highest_and_what_diverged_never() -> None:
    task = build_task(recipe().task, REGISTRY)  # whose main figure is accuracy
    scores = (90.0, 95.0, 95.0, None)
    tried = [{"values": {"lr": number}, "score": found} for number, found in enumerate(scores)]
    assert best(tried, task, "arm") == {"lr": 1}
    with pytest.raises(UsageError, match="arm: every setting of the grid diverged"):
        best(tried[3:], task, "arm")


def test_a_run_that_diverges_has_no_score(tmp_path: Path) -> None:
    def run(*_: Any) -> dict[str, Any]:
        raise NonFiniteLoss("far away")

    assert score(recipe(), 16, REGISTRY, tmp_path, run) is None


def test_each_arm_runs_with_its_own_choice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At a rate of 1e-9 nothing is learnt, at 0.1 something."""
    monkeypatch.setenv("CONDENSERY_CACHE", str(tmp_path / "cache"))
    made = plan()
    changed = {"model": {"key": "mlp", "hidden": [32]}, "data": {"subset": {"size": 256}}, "train": {"batch_size": 16}}
    arms = {"plain": {"stages": [{"name": "longer", "epochs": 4}]}, "better": {"stages": [{"name": "l", "epochs": 6}]}}
    grid = {"grid": {"train.optimizer.lr": [1e-9, 0.1]}, "held_out": 64}
    tier = made.tiers["smoke"].model_copy(update={**grid, "defaults": {**SMALL, **changed}, "arms": arms})
    options = RunOptions(device="cpu", as_json=True)
    tuned, reports = run_arms(REGISTRY, made, tier, "smoke", [0, 1], tmp_path / "out", options)
    assert [tuned[arm]["chosen"] for arm in ("plain", "better")] == [{"train.optimizer.lr": 0.1}] * 2
    for said in tuned.values():
        low, high = (entry["score"] for entry in said["tried"])
        assert low < high
    for found in reports.values():
        assert [run["recipe"]["train"]["optimizer"]["lr"] for run in found] == [0.1, 0.1]
        assert [run["recipe"]["data"]["subset"]["size"] for run in found] == [256, 256]
