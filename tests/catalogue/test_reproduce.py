from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.catalogue.made_up import CARD, KEY, install, plan, report

from condensery.contract import Registry
from condensery.errors import ArtifactError, CondenseryError, UsageError
from condensery.files import write_json
from condensery_catalogue import reproduce, results
from condensery_catalogue.jobs import finished
from condensery_catalogue.judging import dig, judge
from condensery_catalogue.metrics import measures
from condensery_catalogue.reproduce import print_result, reproduce_paper
from condensery_catalogue.reproduction import load_reproduction
from condensery_catalogue.running import RunOptions
from condensery_catalogue.showing import show_card


def test_a_second_call_runs_only_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CONDENSERY_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "out"

    def call() -> dict[str, Any]:
        reproduce_paper("hinton-kd", "smoke", None, RunOptions(device="cpu", out=out, as_json=True))
        result: dict[str, Any] = json.loads(capsys.readouterr().out)
        assert json.loads((out / "smoke" / "result.json").read_text()) == result
        return result

    first = call()
    seed = out / "smoke" / "seed0"
    untouched = (seed / "alone" / "report.json").stat().st_mtime_ns
    shutil.rmtree(seed / "distilled")
    again = call()
    assert (seed / "alone" / "report.json").stat().st_mtime_ns == untouched
    assert (seed / "distilled" / "report.json").is_file()
    assert [a["quality"] for a in again["arms"].values()] == [a["quality"] for a in first["arms"].values()]

    recipe = next(iter(_recipes("hinton-kd").values()))
    path = seed / "alone" / "report.json"
    whole = json.loads(path.read_text())
    for metric in measures(Registry.open(), recipe):
        assert dig(whole, metric) >= 0, metric
    with pytest.raises(UsageError, match="another recipe"):
        finished(seed / "alone", recipe)
    recipe = recipe.model_copy(update={"name": "hinton-kd:alone", "paper": "hinton-kd", "seed": 0})
    whole.pop("checksum")
    assert finished(seed / "alone", recipe) == whole
    write_json(path, {**whole, "versions": {**whole["versions"], "torch": "1.0"}})
    with pytest.raises(UsageError, match="another version of torch"):
        finished(seed / "alone", recipe)
    path.write_text(path.read_text()[:100])
    with pytest.raises(ArtifactError, match="damaged"):
        finished(seed / "alone", recipe)


def _recipes(key: str) -> dict[str, Any]:
    return load_reproduction(Registry.open(), key).tiers["smoke"].recipes(key)


@pytest.mark.parametrize(
    ("key", "tier", "device", "says"),
    [
        ("hinton-kdd", "smoke", "cpu", "did you mean 'hinton-kd'"),
        ("hinton-kd", "smok", "cpu", "did you mean 'smoke'"),
        ("hinton-kd", "smoke", "gpu", "unknown device 'gpu'"),
    ],
)
def test_bad_arguments_leave_nothing_behind(key: str, tier: str, device: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(CondenseryError, match=says):
        reproduce_paper(key, tier, None, RunOptions(device=device, out=tmp_path / "out", as_json=True))
    assert not (tmp_path / "out").exists()


@pytest.fixture
def made_up_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every arm end at once: errors of 6 % without, and of 4.6 % with the method."""
    runs = {"plain": [report(0, error=6.0)], "better": [report(0, error=4.6)]}
    monkeypatch.setattr(reproduce, "run_arms", lambda *_: ({}, runs))


@pytest.mark.usefixtures("made_up_runs")
def test_a_result_is_drawn_into_its_folder_and_published_only_where_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(results, "changed_files", list)
    home = install(tmp_path / "reproductions", "kept_in_a_checkout", monkeypatch)
    monkeypatch.chdir(tmp_path)
    reproduce_paper(KEY, "paper", None, RunOptions(device="cpu"))
    out = tmp_path / "runs" / "reproduce" / KEY
    assert capsys.readouterr().out.endswith("result.svg\n")
    assert sorted(path.name for path in (out / "paper").iterdir()) == ["result.json", "result.svg"]
    assert [path.name for path in home.iterdir()] == ["recipe.yaml"]

    reproduce_paper(KEY, "paper", None, RunOptions(device="cpu"), store=True)
    assert sorted(path.name for path in home.iterdir()) == ["paper.json", "recipe.yaml"]
    assert (home / "paper.json").read_text() == (out / "paper" / "result.json").read_text()
    capsys.readouterr()
    show_card(KEY, as_json=False)
    shown = capsys.readouterr().out
    assert "Measured here" in shown
    assert "6.00 -> 4.60 error" in shown


def never(*_: Any) -> dict[str, Any]:
    raise AssertionError("something was trained")


@pytest.mark.parametrize(
    ("tier", "changed", "standing", "says"),
    [
        ("smoke", [], 0, "the smoke tier shows only that everything runs"),
        ("paper", [], 3, "paper.json has 3 seeds, and this would have 1"),
        ("paper", ["a.py", "b.py", "c.py", "d.py"], 0, "commit first: a.py, b.py, c.py, ... changed"),
        ("paper", None, 1, "is no git checkout"),
    ],
)
def test_what_may_not_be_published_is_refused_before_anything_trains(
    tier: str, changed: list[str] | None, standing: int, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "changed_files", lambda: changed)
    monkeypatch.setattr(reproduce, "run_arms", never)
    home = install(tmp_path / "reproductions", f"refuses_{len(says)}", monkeypatch)
    if standing:
        (home / "paper.json").write_text(json.dumps({"key": KEY, "seeds": list(range(standing))}))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=f"--store: .*{says}"):
        reproduce_paper(KEY, tier, None, RunOptions(device="cpu"), store=True)


def test_outside_a_checkout_nothing_is_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reproduce, "run_arms", never)
    install(tmp_path / "site", "kept_nowhere", monkeypatch)
    (tmp_path / "reproductions" / "kept_nowhere" / KEY).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"--store: .*recipe.yaml isn't part of a checkout in the current folder"):
        reproduce_paper(KEY, "desk", None, RunOptions(device="cpu", out=tmp_path / "out"), store=True)


def test_a_table_of_arms_explains_itself(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """6.00 % errors that are 30: of 500. The arm that others are compared with isn't called smaller than anything."""
    monkeypatch.setenv("COLUMNS", "200")
    made = plan(compare=[{"claim": "error", "metric": "after.quality.error", "arm": "better", "baseline_arm": "plain"}])
    reports = {"plain": [report(0, error=6.0, errors=30.0)], "better": [report(0, error=4.0, errors=20.0)]}
    print_result(judge(made, made.tiers["smoke"], "smoke", CARD, reports))
    out = capsys.readouterr().out
    assert "errors of 500" in out
    plain, better = ([line for line in out.splitlines() if line.startswith(f" {arm} ")][-1] for arm in reports)
    assert plain.split()[-1] == "-"
    assert better.split()[-1].endswith("x")
    for column in ("non-zero", "smaller"):
        assert f"{column}: " in out


def test_a_table_says_what_was_sent(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where all arms' workers sent gradients each has the mean of its seeds; where none did there is no column."""
    monkeypatch.setenv("COLUMNS", "200")
    made = plan(compare=[])
    for sent, column in (({"sent_bytes": 1000}, True), ({"sent_bytes": None}, False), ({"sent_bytes": 0}, False)):
        told = [{**report(0), "training": sent}, {**report(0), "training": {"sent_bytes": 2001} if column else sent}]
        print_result(judge(made, made.tiers["smoke"], "smoke", CARD, {"plain": told, "better": told}))
        out = capsys.readouterr().out
        assert (" 1,500 " in out) is column
        assert ("sent: " in out) is column
