"""Each arm's settings are chosen on examples that its training didn't see, and on nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.catalogue.made_up import SMALL, plan

from condensery import Registry, UsageError
from condensery.errors import NonFiniteLoss
from condensery.recipe import Recipe, parse_recipe
from condensery.tasks import Metric
from condensery_catalogue.reproduce import run_arms
from condensery_catalogue.running import RunOptions
from condensery_catalogue.tuning import combinations, tune

REGISTRY = Registry.open()
ACCURACY, ERROR = Metric("figure", "%", higher_is_better=True), Metric("figure", "%", higher_is_better=False)
RATES = {"lr": [0.1, 0.2, 0.3, 0.4]}


def same(values: Any) -> Recipe:
    return parse_recipe({**SMALL, "name": "arm"})


def test_a_grid_has_every_combination_in_order() -> None:
    assert combinations({"a": [1, 2], "b": ["x", "y"]}) == [
        {"a": 1, "b": "x"},
        {"a": 1, "b": "y"},
        {"a": 2, "b": "x"},
        {"a": 2, "b": "y"},
    ]


def scores(*found: float | None) -> Any:
    """Return a player whose runs come to these figures on validation; without one they diverge."""

    def play(_: Recipe, number: int) -> dict[str, Any]:
        if (score := found[number]) is None:
            raise NonFiniteLoss("far away")
        return {"validation": {"figure": score}, "after": {"quality": {"figure": -score}}}

    return play


def test_the_first_of_the_best_is_chosen_and_what_diverged_never() -> None:
    found = tune(RATES, same, ACCURACY, scores(90.0, 95.0, 95.0, None))
    assert found["chosen"] == {"lr": 0.2}
    assert [entry["score"] for entry in found["tried"]] == [90.0, 95.0, 95.0, None]
    assert tune(RATES, same, ERROR, scores(9.0, None, 5.0, 6.0))["chosen"] == {"lr": 0.3}
    with pytest.raises(UsageError, match="arm: every setting of the grid diverged"):
        tune(RATES, same, ACCURACY, scores(None, None, None, None))


def test_each_arm_runs_with_its_own_choice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At a rate of 1e-9 nothing is learnt, at 0.1 something."""
    monkeypatch.setenv("CONDENSERY_CACHE", str(tmp_path / "cache"))
    made = plan()
    changed = {"model": {"key": "mlp", "hidden": [32]}, "data": {"subset": {"size": 256}}, "train": {"batch_size": 16}}
    arms = {"plain": {"stages": [{"name": "longer", "epochs": 4}]}, "better": {"stages": [{"name": "l", "epochs": 6}]}}
    grid = {"grid": {"train.optimizer.lr": [1e-9, 0.1]}, "held_out": 0.2}
    tier = made.tiers["smoke"].model_copy(update={**grid, "defaults": {**SMALL, **changed}, "arms": arms})
    options = RunOptions(device="cpu", as_json=True)
    tuned, reports = run_arms(REGISTRY, made, tier, "smoke", [0, 1], tmp_path / "out", options)
    assert [tuned[arm]["metric"] for arm in ("plain", "better")] == ["accuracy"] * 2
    assert [tuned[arm]["chosen"] for arm in ("plain", "better")] == [{"train.optimizer.lr": 0.1}] * 2
    for said in tuned.values():
        low, high = (entry["score"] for entry in said["tried"])
        assert low < high
    for found in reports.values():
        assert [run["recipe"]["train"]["optimizer"]["lr"] for run in found] == [0.1, 0.1]
        assert [run["recipe"].get("validation") for run in found] == [None, None]
