from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from condensery.contract import Registry
from condensery.errors import ArtifactError, CondenseryError, UnknownKey, UsageError
from condensery.recipe import checked
from condensery_catalogue import results
from condensery_catalogue.metrics import measures
from condensery_catalogue.reproduce import dig, finished, judge, print_result, reproduce_paper
from condensery_catalogue.reproduction import Reproduction
from condensery_catalogue.running import RunOptions
from condensery_catalogue.showing import show_card

PLAN: dict[str, Any] = {
    "key": "some-paper",
    "card": "some-card",
    "tiers": {"paper": {"scale": "paper", "arms": {"plain": {}, "better": {}}}},
    "compare": [
        {"claim": "error", "metric": "after.quality.error", "arm": "better", "baseline_arm": "plain"}
        | {"higher_is_better": False, "tolerance": 0.5},
        {"claim": "gain", "metric": "after.quality.error", "arm": "better", "baseline_arm": "plain"}
        | {"higher_is_better": False, "tolerance": 0.25, "answers": "gain"},
    ],
}
CARD: dict[str, Any] = {
    "claims": [
        {"id": "error", "unit": "%", "model": "M", "dataset": "D", "value": {"value": 4.4, "source": "read"}},
        {"id": "gain", "unit": "points", "model": "M", "dataset": "D", "value": {"value": 1.5, "source": "recalled"}},
    ]
}


def report(seed: int, error: float) -> dict[str, Any]:
    storage = {"file": 90 + seed, "payload": 40, "tables": 10, "header": 30 + seed, "manifest": 10}
    after = {"quality": {"error": error}, "parameters": 10, "nonzeros": 8, "macs": 100, "storage": storage}
    rates = {"compression_rate": 2.0 + seed, "storage_rate": 4.0, "macs": 1.25}
    made = {"versions": {"torch": "2"}, "device": "cpu", "environment": {"threads": 1}}
    return {"seed": seed, "after": after, "ratios": rates, "wall_s": 1.5, "recipe": {"seed": seed}, **made}


def plan(**changed: Any) -> Reproduction:
    return checked(Reproduction, {**PLAN, **changed}, "plan")


def test_judge_by_hand() -> None:
    """Errors 5, 7 against 3, 6: means 6 and 4.5, gains 2 and 1; variances 2 and 4.5 pool to 3.25, so 1.5 is noise."""
    reports = {"plain": [report(0, 5.0), report(1, 7.0)], "better": [report(0, 3.0), report(1, 6.0)]}
    result = judge(plan(), plan().tiers["paper"], "paper", CARD, reports)
    assert result["arms"]["plain"]["quality"]["error"] == {"mean": 6.0, "std": 2**0.5, "values": [5.0, 7.0]}
    assert result["arms"]["plain"]["storage"]["file"] == [90, 91]
    assert result["arms"]["plain"]["compression_rate"] == [2.0, 3.0]
    assert result["arms"]["plain"]["macs_ratio"] == [1.25, 1.25]
    assert "figure" not in result
    value, gain = result["comparisons"]
    assert value["measured"]["mean"] == 4.5
    assert value["direction"] == "within noise"
    assert value["verdict"] == "partly"
    assert gain["gain"] == {"mean": 1.5, "std": pytest.approx(0.5**0.5), "values": [2.0, 1.0]}
    assert gain["verdict"] == "partly"
    assert result["wall_s"] == 6.0
    assert result["seeds"] == [0, 1]
    json.dumps(result)


def test_judge_reproduced(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Errors 6, 6.2 against 4.6, 4.8: within 0.5 of 4.4, and 1.4 better than a noise of 0.14."""
    monkeypatch.setenv("COLUMNS", "200")
    reports = {"plain": [report(0, 6.0), report(1, 6.2)], "better": [report(0, 4.6), report(1, 4.8)]}
    result = judge(plan(), plan().tiers["paper"], "paper", CARD, reports)
    assert [c["verdict"] for c in result["comparisons"]] == ["reproduced", "partly"]  # the gain was only recalled
    print_result(result)
    out = capsys.readouterr().out
    assert "1.5 (recalled, not read)" in " ".join(out.split())
    assert "reproduced" in out


def test_a_wrong_comparison_is_named() -> None:
    item = PLAN["compare"][0]
    tier = plan().tiers["paper"]
    with pytest.raises(UnknownKey, match="unknown claim 'eror'; did you mean 'error'"):
        plan(compare=[{**item, "claim": "eror"}]).comparisons(tier, CARD)
    with pytest.raises(UnknownKey, match="unknown arm 'plan'; did you mean 'plain'"):
        plan(compare=[{**item, "baseline_arm": "plan"}]).comparisons(tier, CARD)
    with pytest.raises(UsageError, match="a gain needs a baseline_arm"):
        plan(compare=[{**item, "answers": "gain", "baseline_arm": None}])
    with pytest.raises(UsageError, match="has no 'eror'"):
        dig(report(0, 1.0), "after.quality.eror")


def test_a_second_call_runs_only_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CONDENSERY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "reproductions" / "condensery_reproductions").mkdir(parents=True)
    out, home = tmp_path / "out", tmp_path / "reproductions" / "results"

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

    show_card("hinton-kd", as_json=False)
    shown = capsys.readouterr().out
    assert "Measured here" in shown
    assert "scaled-down" in shown
    assert f"{first['arms']['distilled']['quality']['errors']['mean']:.2f} errors" in shown

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
    from condensery_catalogue.reproduction import load_reproduction

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


def test_results_home_is_a_checkouts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert results.results_home() is None
    assert results.stored_results("hinton-kd") == []
    (tmp_path / "reproductions" / "condensery_reproductions").mkdir(parents=True)
    assert results.results_home() == Path("reproductions/results")


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_commit_is_that_of_the_code(tmp_path: Path) -> None:
    """None for files that a repository around them doesn't hold, then the commit, then the commit and -dirty."""
    package = tmp_path / "package"
    package.mkdir()
    for name in ("results.py", "__init__.py"):
        shutil.copy(Path(results.__file__).with_name(name), package)

    def git(*arguments: str) -> str:
        names = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
        command = ["git", "-C", str(tmp_path), *names, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    module = _module(package / "results.py")
    assert module.commit() is None
    git("init", "--quiet")
    assert module.commit() is None
    git("add", ".")
    git("commit", "--quiet", "--message", "all", "--no-verify")
    assert module.commit() == git("rev-parse", "HEAD")
    (package / "__init__.py").write_text("changed = 1\n")
    assert module.commit() == git("rev-parse", "HEAD") + "-dirty"


def _module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("results_elsewhere", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
