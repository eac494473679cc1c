"""A trial is a run: scored on validation, quick where nothing is to be trained, resumed, pruned, and gone on from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from optuna.pruners import ThresholdPruner

from condensery import Registry, UsageError
from condensery.run import Ongoing, Proposal, Pruned, RecipeTrials, Space, Trial, TrialStore
from condensery.run.validation import Validation

SPARSITY = "stages.0.magnitude.sparsity"
RECIPE: dict[str, Any] = {
    "model": {"key": "mlp", "hidden": [16]},
    "task": "digits",
    "base": {"epochs": 1},
    "data": {"subset": {"size": 200}},
    "train": {"epochs": 2, "batch_size": 50},
    "stages": [{"methods": [{"magnitude": {"sparsity": 0.5}}]}],
}
SPACE = Space.model_validate(
    {"parameters": {SPARSITY: {"low": 0.1, "high": 0.9}}, "objectives": {"validation.accuracy": "maximize"}}
)
REGISTRY = Registry.open()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONDENSERY_CACHE", str(tmp_path / "cache"))


def trials(out: Path, recipe: Mapping[str, Any] = RECIPE) -> RecipeTrials:
    return RecipeTrials(recipe=recipe, registry=REGISTRY, out=out, device="cpu")


def alone(number: int = 0, start: Trial | None = None) -> Ongoing:
    return Ongoing(number, start, TrialStore(None, SPACE))


def test_a_trial_is_scored_on_validation_and_never_on_test(tmp_path: Path) -> None:
    report = trials(tmp_path)({SPARSITY: 0.8}, "full", alone(3))
    assert report["folder"] == "trials/3"
    assert (tmp_path / "trials" / "3" / "report.json").is_file()
    assert report["before"].get("quality", {}) == report["after"]["quality"] == {}
    assert report["after"]["nonzeros"] < 0.3 * report["after"]["parameters"]
    assert 20 < report["validation"]["accuracy"] <= 100
    assert [len(stage["history"]) for stage in report["stages"]] == [1, 2]
    # A share of the training data was held out, and scored each epoch.
    assert report["recipe"]["validation"] == 0.1
    assert report["stages"][1]["history"][-1]["quality"] == report["validation"]


def test_a_quick_trial_trains_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shares = []

    def quality(self: Validation, *args: Any) -> dict[str, float]:
        shares.append(self.batches)
        return measured(self, *args)

    measured = Validation.quality
    monkeypatch.setattr(Validation, "quality", quality)
    report = trials(tmp_path)({SPARSITY: 0.8}, "quick", alone())
    assert report["stages"][1]["epochs"] == 0
    assert report["stages"][0]["epochs"] == 1  # the net that is compressed has been trained
    assert report["after"]["nonzeros"] < 0.3 * report["after"]["parameters"]
    assert 0 < report["validation"]["accuracy"] <= 100
    assert set(shares) == {1}  # one batch of the validation split


def test_a_trial_that_was_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    class Stopping(Ongoing):
        def epoch(self, number: int, report: Mapping[str, Any]) -> None:
            told.append(number)
            if number == 2:  # one epoch of the base, and the first of the stage
                raise KeyboardInterrupt

    told: list[int] = []
    whole = trials(tmp_path / "whole")({SPARSITY: 0.8}, "full", alone())
    with pytest.raises(KeyboardInterrupt):
        trials(tmp_path / "cut")({SPARSITY: 0.8}, "full", Stopping(0, None, alone().store))
    log = (tmp_path / "cut" / "trials" / "0" / "log.jsonl").read_text()
    found = trials(tmp_path / "cut")({SPARSITY: 0.8}, "full", alone())
    assert told == [2]
    assert (tmp_path / "cut" / "trials" / "0" / "log.jsonl").read_text().startswith(log)
    assert found["validation"] == whole["validation"]
    assert [e["terms"] for e in found["stages"][1]["history"]] == [e["terms"] for e in whole["stages"][1]["history"]]


def test_a_trial_goes_on_from_a_winners_net(tmp_path: Path) -> None:
    recipe = {**RECIPE, "model": {"key": "resnet8", "width": 0.5}, "data": {"subset": {"size": 100}}, "base": "none"}
    cut = {**recipe, "stages": [{"methods": [{"l1-filter-pruning": {"ratio": 0.5}}], "epochs": 1}]}
    first = trials(tmp_path, cut)({}, "full", alone(0))
    assert first["after"]["parameters"] < first["before"]["parameters"]

    winner = Trial({}, number=0, state="complete", report=first)
    second = trials(tmp_path, {**recipe, "base": {"epochs": 1}})({SPARSITY: 0.5}, "quick", alone(1, winner))
    assert second["before"]["parameters"] == second["after"]["parameters"] == first["after"]["parameters"]
    assert second["after"]["nonzeros"] < 0.6 * first["after"]["nonzeros"]
    assert [stage["name"] for stage in second["stages"]] == ["magnitude"]  # no base: the winner is trained


def test_a_pruner_stops_a_run_after_an_epoch(tmp_path: Path) -> None:
    store = TrialStore(None, SPACE, pruner=ThresholdPruner(lower=99.9))
    trial = store.begin(Proposal({SPARSITY: 0.8}), "full")
    with pytest.raises(Pruned, match="after epoch 2"):
        trials(tmp_path)({SPARSITY: 0.8}, "full", Ongoing(trial.number, None, store))
    assert list(store.trials()[0].epochs) == [2]
    assert 0 < store.trials()[0].epochs[2] < 99.9


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ({"stages.1.magnitude.sparsity": 0.5}, "no entry '1'"),
        ({"model.hidden": "wide"}, "hidden"),
        ({SPARSITY: 1.5}, "magnitude.sparsity must be"),
    ],
)
def test_what_is_wrong_is_one_line_before_anything_runs(overrides: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=says):
        trials(tmp_path / "out").check(overrides, "full")
    assert not (tmp_path / "out").exists()
