"""The queue of what lacks a result: budgets, estimates by hand, what counts as pending, and going on after a kill."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from condensery import Registry, Run, UsageError
from condensery.recipe import parse_recipe
from condensery_catalogue.estimates import OVERHEAD, Estimates, Stopwatch
from condensery_catalogue.pending import Job, Pending, pending_tiers, seconds_in
from condensery_catalogue.reproduction import load_reproduction

REGISTRY = Registry.open()


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90.0), ("25m", 1500.0), ("1.5h", 5400.0), (" 2 m", 120.0)])
def test_budgets(text: str, seconds: float) -> None:
    assert seconds_in(text) == seconds


@pytest.mark.parametrize("text", ["", "25", "m", "-3m", "25 minutes", "1e3s"])
def test_a_budget_that_cannot_be_read_says_how_to_write_it(text: str) -> None:
    with pytest.raises(UsageError, match="such as 25m"):
        seconds_in(text)


def test_an_estimate_counts_the_steps_of_base_stages_and_rounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """64 examples in batches of 32 are 2 steps an epoch: base 3, a stage 1, two rounds of 2 are 8 epochs, 16 steps."""
    monkeypatch.setattr(Stopwatch, "step_s", property(lambda self: 0.01))
    monkeypatch.setenv("CONDENSERY_CACHE", str(tmp_path / "cache"))
    recipe = parse_recipe(
        {
            "model": {"key": "mlp", "hidden": [4]},
            "task": "digits",
            "data": {"subset": {"size": 64}},
            "base": {"epochs": 3, "batch_size": 32},
            "train": {"batch_size": 32, "epochs": 1},
            "stages": [{"name": "one"}, {"repeat": 2, "stages": [{"name": "two", "epochs": 2}]}],
        }
    )
    found = Estimates(tmp_path / "estimates.json", REGISTRY, "cpu")
    assert found.seconds(recipe) == pytest.approx(OVERHEAD * 0.01 * 16)

    # The next one reads it from the file, whatever a step would take then.
    monkeypatch.setattr(Stopwatch, "step_s", property(lambda self: 5.0))
    again = Estimates(tmp_path / "estimates.json", REGISTRY, "cpu")
    assert again.seconds(recipe) == found.seconds(recipe)


def test_a_base_that_the_cache_has_is_not_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight epochs of 2 steps are left."""
    monkeypatch.setattr(Stopwatch, "step_s", property(lambda self: 0.01))
    monkeypatch.setenv("CONDENSERY_CACHE", str(tmp_path / "cache"))
    data = {"model": {"key": "mlp", "hidden": [4]}, "task": "digits", "data": {"subset": {"size": 64}}}
    train = {"batch_size": 32, "epochs": 1}
    stages = [{"name": "one", "epochs": 8}]
    recipe = parse_recipe({**data, "base": train, "train": train, "stages": stages})
    Run(recipe, REGISTRY, out=tmp_path / "run", device="cpu").execute()
    assert Estimates(tmp_path / "e.json", REGISTRY, "cpu").seconds(recipe) == pytest.approx(OVERHEAD * 0.01 * 16)


def test_what_has_a_stored_result_is_not_pending(tmp_path: Path) -> None:
    found = {(item.plan.key, item.tier) for item in pending_tiers(REGISTRY, ("desk", "paper"), tmp_path, ())}
    assert ("hinton-kd", "desk") not in found
    assert ("hinton-kd", "paper") in found
    assert all(tier != "smoke" for _, tier in found)


def test_jobs_are_one_for_each_seed_and_arm_and_those_that_ended_are_left_out(tmp_path: Path) -> None:
    (item,) = pending_tiers(REGISTRY, ("paper",), tmp_path, ("hinton-kd",))
    assert [(job.seed, job.arm) for job in item.jobs[:3]] == [(0, "alone"), (0, "distilled"), (1, "alone")]

    ended = item.jobs[0].folder
    ended.mkdir(parents=True)
    (ended / "report.json").write_text("{}")
    (item,) = pending_tiers(REGISTRY, ("paper",), tmp_path, ("hinton-kd",))
    assert [(job.seed, job.arm) for job in item.jobs[:2]] == [(0, "distilled"), (1, "alone")]


def test_more_claims_a_minute_come_first(tmp_path: Path) -> None:
    """Six claims in 60 minutes are worth as much as one in 10, and more than one in 11."""
    many = load_reproduction(REGISTRY, "deep-compression")
    one = load_reproduction(REGISTRY, "hinton-kd")
    job = Job("any", "paper", 0, "arm", tmp_path)
    assert len(many.tiers["paper"].compare or ()) == 6
    assert Pending(many, "paper", [job], 60.0).worth == pytest.approx(Pending(one, "paper", [job], 10.0).worth)
    assert Pending(many, "paper", [job], 60.0).worth > Pending(one, "paper", [job], 11.0).worth


@pytest.mark.slow
def test_a_killed_queue_goes_on_elsewhere_and_gives_what_an_unbroken_one_gives(tmp_path: Path) -> None:
    def command(out: Path) -> list[str]:
        here = [sys.executable, "-m", "condensery_catalogue.cli", "reproduce", "hinton-kd", "--pending"]
        return [*here, "--tier", "smoke", "--jobs", "2", "--device", "cpu", "--out", str(out)]

    first, elsewhere, whole = tmp_path / "first", tmp_path / "elsewhere", tmp_path / "whole"
    queue = subprocess.Popen(command(first), stderr=subprocess.PIPE, text=True)
    assert queue.stderr is not None
    for line in queue.stderr:
        if line.startswith("begun"):
            time.sleep(6)
            queue.send_signal(signal.SIGKILL)
            break
    queue.wait()
    queue.stderr.close()
    time.sleep(25)  # the jobs that it had begun end by themselves; a machine that goes away would take them along
    assert not (first / "hinton-kd" / "smoke" / "result.json").exists()
    shutil.move(first, elsewhere)

    for out in (elsewhere, whole):
        subprocess.run(command(out), check=True, capture_output=True)
    results = [json.loads((out / "hinton-kd" / "smoke" / "result.json").read_text()) for out in (elsewhere, whole)]
    assert results[0]["arms"]["distilled"]["quality"] == results[1]["arms"]["distilled"]["quality"]
