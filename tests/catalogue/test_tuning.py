"""Each arm's settings are chosen on examples that its training didn't see, and on nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.catalogue.made_up import SMALL, plan

from condensery import Registry, UsageError
from condensery.tasks import Metric
from condensery_catalogue.jobs import Jobs
from condensery_catalogue.reproduce import run_arms
from condensery_catalogue.running import RunOptions
from condensery_catalogue.tuning import choose, combinations

REGISTRY = Registry.open()
ACCURACY, ERROR = Metric("figure", "%", higher_is_better=True), Metric("figure", "%", higher_is_better=False)
RATES = {"lr": [0.1, 0.2, 0.3, 0.4]}


def test_a_grid_has_every_combination_in_order() -> None:
    assert combinations({"a": [1, 2], "b": ["x", "y"]}) == [
        {"a": 1, "b": "x"},
        {"a": 1, "b": "y"},
        {"a": 2, "b": "x"},
        {"a": 2, "b": "y"},
    ]


def test_the_first_of_the_best_is_chosen_and_what_diverged_never() -> None:
    found = choose("arm", RATES, ACCURACY, [90.0, 95.0, 95.0, None])
    assert found["chosen"] == {"lr": 0.2}
    assert [entry["score"] for entry in found["tried"]] == [90.0, 95.0, 95.0, None]
    assert choose("arm", RATES, ERROR, [9.0, None, 5.0, 6.0])["chosen"] == {"lr": 0.3}
    with pytest.raises(UsageError, match="arm: every setting of the grid diverged"):
        choose("arm", RATES, ACCURACY, [None] * 4)


def test_each_arm_runs_with_its_own_choice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At a rate of 1e-9 nothing is learnt, at 0.1 something."""
    monkeypatch.setenv("CONDENSERY_CACHE", str(tmp_path / "cache"))
    made = plan()
    changed = {"model": {"key": "mlp", "hidden": [32]}, "data": {"subset": {"size": 256}}, "train": {"batch_size": 16}}
    arms = {"plain": {"stages": [{"name": "longer", "epochs": 4}]}, "better": {"stages": [{"name": "l", "epochs": 6}]}}
    grid = {"grid": {"train.optimizer.lr": [1e-9, 0.1]}, "held_out": 0.2}
    tier = made.tiers["smoke"].model_copy(update={**grid, "defaults": {**SMALL, **changed}, "arms": arms})
    jobs = Jobs(REGISTRY, made, tier, "smoke", tmp_path / "out", [0, 1])
    tuned, reports = run_arms(jobs, RunOptions(device="cpu", as_json=True))
    assert [tuned[arm]["metric"] for arm in ("plain", "better")] == ["accuracy"] * 2
    assert [tuned[arm]["chosen"] for arm in ("plain", "better")] == [{"train.optimizer.lr": 0.1}] * 2
    for said in tuned.values():
        low, high = (entry["score"] for entry in said["tried"])
        assert low < high
    for found in reports.values():
        assert [run["recipe"]["train"]["optimizer"]["lr"] for run in found] == [0.1, 0.1]
        assert [run["recipe"].get("validation") for run in found] == [None, None]
