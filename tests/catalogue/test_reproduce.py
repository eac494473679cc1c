from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.catalogue.made_up import KEY, install, report

from condensery.contract import Registry
from condensery.errors import ArtifactError, CondenseryError, UsageError
from condensery_catalogue import reproduce
from condensery_catalogue.judging import dig
from condensery_catalogue.metrics import measures
from condensery_catalogue.reproduce import finished, reproduce_paper
from condensery_catalogue.reproduction import load_reproduction
from condensery_catalogue.running import RunOptions
from condensery_catalogue.showing import show_card


def test_a_second_call_runs_only_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CONDENSERY_CACHE", str(tmp_path / "cache"))
    out, home = tmp_path / "out", tmp_path / "results"

    def call() -> dict[str, Any]:
        reproduce_paper("hinton-kd", "smoke", None, home, RunOptions(device="cpu", out=out, as_json=True))
        result: dict[str, Any] = json.loads(capsys.readouterr().out)
        assert json.loads((home / "hinton-kd" / "smoke.json").read_text()) == result
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
    assert finished(seed / "alone", recipe) == whole
    path.write_text(json.dumps({**whole, "versions": {**whole["versions"], "torch": "1.0"}}))
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
        reproduce_paper(key, tier, None, None, RunOptions(device=device, out=tmp_path / "out", as_json=True))
    assert not (tmp_path / "out").exists()


@pytest.fixture
def made_up_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every arm end at once: errors of 6 % without, and of 4.6 % with the method."""
    runs = {"plain": [report(0, error=6.0)], "better": [report(0, error=4.6)]}
    monkeypatch.setattr(reproduce, "run_arms", lambda *_: runs)


@pytest.mark.usefixtures("made_up_runs")
def test_a_result_is_kept_beside_the_recipe_in_its_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    home = install(tmp_path / "reproductions", "kept_in_a_checkout", monkeypatch)
    monkeypatch.chdir(tmp_path)
    reproduce_paper(KEY, "smoke", None, None, RunOptions(device="cpu"))
    reproduce_paper(KEY, "paper", None, None, RunOptions(device="cpu"))
    assert capsys.readouterr().out.endswith("result.svg\n")
    assert sorted(path.name for path in home.iterdir()) == ["paper.json", "recipe.yaml"]  # smoke's isn't kept
    out = tmp_path / "runs" / "reproduce" / KEY
    assert (home / "paper.json").read_text() == (out / "paper" / "result.json").read_text()
    for tier in ("smoke", "paper"):
        assert sorted(path.name for path in (out / tier).iterdir()) == ["result.json", "result.svg"]

    show_card(KEY, as_json=False)
    shown = capsys.readouterr().out
    assert "Measured here" in shown
    assert "6.00 -> 4.60 error" in shown


@pytest.mark.usefixtures("made_up_runs")
def test_elsewhere_a_result_is_in_the_out_folder_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = install(tmp_path / "site", "kept_nowhere", monkeypatch)
    (tmp_path / "reproductions" / "kept_nowhere" / KEY).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    reproduce_paper(KEY, "desk", None, None, RunOptions(device="cpu", out=tmp_path / "out", as_json=True))
    assert [path.name for path in home.iterdir()] == ["recipe.yaml"]
    assert not list((tmp_path / "reproductions").rglob("*.json"))
    assert json.loads((tmp_path / "out" / "desk" / "result.json").read_text())["key"] == KEY
