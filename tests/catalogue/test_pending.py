"""The queue of what lacks a result: budgets, estimates by hand, what counts as pending, and going on after a kill."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from tests.catalogue import made_up
from tests.catalogue.made_up import KEY, SMALL, install

from condensery import Registry, Run, UsageError
from condensery.errors import FileError
from condensery.recipe import parse_recipe
from condensery_catalogue.estimates import OVERHEAD, Estimates, Foretold, Stopwatch
from condensery_catalogue.jobs import Jobs
from condensery_catalogue.pending import Pending, conclude, main, pending_tiers, run_pending, seconds_in
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


def test_a_long_run_says_how_many_steps_it_has_and_how_long_they_take(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The stage begins with 100 steps, and two recipes of it have 200; each takes half a second."""
    data = {"model": {"key": "mlp", "hidden": [4]}, "task": "digits", "base": "none", "stages": [{"epochs": 1}]}
    clock = iter(0.5 * step for step in range(1000))
    with Foretold([parse_recipe(data)] * 2, REGISTRY) as shown:
        monkeypatch.setattr("condensery_catalogue.estimates.time.monotonic", lambda: next(clock))
        shown.start("one", 100)
        for _ in range(20):
            shown.advance()
    assert capsys.readouterr().err.splitlines() == [
        "about 200 steps in all; a few of them tell how long they take",
        "one: 100 steps",
        f"about {OVERHEAD * 0.5 * 200 / 60:.0f} minutes in all",
    ]


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
    waiting = pending_tiers(REGISTRY, ("desk", "paper"), tmp_path, ())
    found = {(item.jobs.plan.key, item.jobs.tier) for item in waiting}
    assert ("obs", "paper") not in found
    assert ("network-slimming", "paper") in found
    assert all(tier != "smoke" for _, tier in found)


def test_jobs_are_one_for_each_seed_and_arm_and_those_that_ended_are_left_out(tmp_path: Path) -> None:
    (item,) = pending_tiers(REGISTRY, ("paper",), tmp_path, ("hinton-kd-cifar",))
    arms = list(item.jobs.chosen.arms)
    assert {"cifar100-alone", "cifar100-taught", "cifar10-alone", "cifar10-taught"} <= set(arms)
    first = [(0, arm) for arm in arms]
    assert [(job.seed, job.arm) for job in item.left[: len(arms) + 1]] == [*first, (1, arms[0])]

    ended = item.left[0].folder
    ended.mkdir(parents=True)
    (ended / "report.json").write_text("{}")
    (item,) = pending_tiers(REGISTRY, ("paper",), tmp_path, ("hinton-kd-cifar",))
    assert [(job.seed, job.arm) for job in item.left[: len(arms) - 1]] == first[1:]


def test_more_claims_a_minute_come_first(tmp_path: Path) -> None:
    """Six claims in 60 minutes are worth as much as three in 30, and more than three in 31."""

    def pending(key: str, minutes: float) -> Pending:
        plan = load_reproduction(REGISTRY, key)
        jobs = Jobs(REGISTRY, plan, plan.tiers["paper"], "paper", tmp_path)
        return Pending(jobs, list(jobs), minutes)

    assert len(pending("deep-compression", 1).jobs.chosen.compare or ()) == 6
    assert len(pending("hinton-kd", 1).jobs.chosen.compare or ()) == 3
    assert pending("deep-compression", 60.0).worth == pytest.approx(pending("hinton-kd", 30.0).worth)
    assert pending("deep-compression", 60.0).worth > pending("hinton-kd", 31.0).worth


@pytest.fixture
def gridded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Install a paper whose arms learn nothing at one rate, something at the next, and diverge at the last."""
    arms = {"plain": {"stages": [{"name": "longer", "epochs": 4}]}, "better": {"stages": [{"name": "l", "epochs": 6}]}}
    small = {**SMALL, "model": {"key": "mlp", "hidden": [32]}, "data": {"subset": {"size": 256}}}
    grid = {"train.optimizer.lr": [1e-9, 0.1, 1e30]}
    tier = {"defaults": {**small, "train": {"batch_size": 16}}, "arms": arms, "grid": grid, "held_out": 0.2}
    monkeypatch.setitem(made_up.RECIPE, "tiers", {"smoke": {**tier, "seeds": [0]}})
    monkeypatch.setitem(made_up.RECIPE, "compare", [])
    install(tmp_path / "site", "brings_a_grid", monkeypatch)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'site'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    return tmp_path


def test_trials_of_a_grid_are_jobs_and_the_runs_that_count_wait_for_those_of_their_arm(gridded: Path) -> None:
    registry = Registry.open()
    (item,) = pending_tiers(registry, ("smoke",), gridded / "out", (KEY,))
    arms = first, second = tuple(item.jobs.chosen.arms)
    assert [(job.arm, job.seed, job.trial) for job in item.left] == [
        *((first, 0, number) for number in range(3)),
        *((second, 0, number) for number in range(3)),
        *((arm, 0, None) for arm in arms),
    ]
    for trial in item.left[:3]:
        trial.folder.mkdir(parents=True)
        (trial.folder / "report.json").write_text("{}")
    assert [item.jobs.is_ready(item.jobs.job(arm, 0)) for arm in arms] == [True, False]


def test_a_tier_is_concluded_with_what_each_arm_tried_and_chose(gridded: Path) -> None:
    (item,) = pending_tiers(Registry.open(), ("smoke",), gridded / "out", (KEY,))
    for job in item.left:
        assert conclude(item) is None
        trial = "-" if job.trial is None else str(job.trial)
        assert main([KEY, "smoke", job.arm, str(job.seed), trial, str(item.jobs.folder), "cpu"]) == 0
    written = conclude(item)
    assert written is not None
    result = json.loads(written.read_text())
    for arm in ("plain", "better"):
        assert result["grid"][arm]["chosen"] == {"train.optimizer.lr": 0.1}
        low, high, diverged = (entry["score"] for entry in result["grid"][arm]["tried"])
        assert low < high
        assert diverged is None
        assert result["recipes"][arm]["train"]["optimizer"]["lr"] == 0.1


def test_what_stands_in_the_way_ends_the_queue_with_an_error(
    gridded: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A job that fails leaves its tier; a device that isn't there and a file in the folder's place come first."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match="device 'cuda': no CUDA device here"):
        run_pending(("smoke",), None, 1, gridded / "out", "cuda", (KEY,))
    file = gridded / "file"
    file.touch()
    with pytest.raises(FileError, match=r"file/out can't be written \(Not a directory\); give another folder"):
        run_pending(("smoke",), None, 1, file / "out", "cpu", (KEY,))
    assert not (gridded / "out").exists()

    monkeypatch.setattr(subprocess, "Popen", partial(subprocess.Popen, executable="/bin/false"))
    with pytest.raises(UsageError, match=r"1 of 1 tiers are left, the first because of: stopped"):
        run_pending(("smoke",), None, 1, gridded / "out", "cpu", (KEY,))
    assert "stopped" in capsys.readouterr().out


def test_a_trial_never_sees_the_test_data(gridded: Path) -> None:
    (item,) = pending_tiers(Registry.open(), ("smoke",), gridded / "out", (KEY,))
    report = item.jobs.play(item.left[0], "cpu")
    assert report["validation"]
    assert not report["before"].get("quality")
    assert not report["after"].get("quality")


def test_a_trial_that_diverged_is_not_tried_again(gridded: Path) -> None:
    (item,) = pending_tiers(Registry.open(), ("smoke",), gridded / "out", (KEY,))
    trial = item.left[2]
    assert "diverged" in item.jobs.play(trial, "cpu")
    written = (trial.folder / "report.json").stat().st_mtime_ns
    assert "diverged" in item.jobs.play(trial, "cpu")
    assert (trial.folder / "report.json").stat().st_mtime_ns == written
    assert trial not in next(iter(pending_tiers(Registry.open(), ("smoke",), gridded / "out", (KEY,)))).left


@pytest.mark.slow
def test_the_queue_tries_a_grid_in_processes_side_by_side(gridded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All is played before but the last trial of one arm, and that arm's run, which must wait for it."""
    (item,) = pending_tiers(Registry.open(), ("smoke",), gridded / "out", (KEY,))
    waiting = [item.jobs.job("plain", 0, 2), item.jobs.job("plain", 0)]
    for job in item.left:
        if job not in waiting:
            item.jobs.play(job, "cpu")
    run_pending(("smoke",), None, 2, gridded / "out", "cpu", (KEY,))
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith(("begun", "done"))]
    assert sorted(said) == sorted(f"{word}: {job.title}" for job in waiting for word in ("begun", "done"))
    assert said[0] == f"begun: {waiting[0].title}"
    assert (gridded / "out" / KEY / "smoke" / "result.json").is_file()


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
