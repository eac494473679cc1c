"""``condensery search``: the page's own example by each sampler, kills, and what is wrong told by its line."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.catalogue.searches import HillClimb
from tests.core.helpers import offering

import condensery_catalogue
from condensery import Registry
from condensery.recipe import load_recipe
from condensery_catalogue import searching
from condensery_catalogue.cli import main

PAGE = Path(condensery_catalogue.__file__).parents[1] / "docs" / "searching.md"
EXAMPLES = dict(re.findall(r"```yaml\n# (\S+)\n(.*?)```", PAGE.read_text(), flags=re.DOTALL))
SEARCH = ["search", "recipe.yaml", "--space", "space.yaml", "--device", "cpu"]
QUICK = [*SEARCH, "--budget", "quick", "--json"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CONDENSERY_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    for name, text in EXAMPLES.items():
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.fixture
def condensery(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run the command in this process; returns its exit code, output and errors."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["condensery", *arguments])
        monkeypatch.setenv("COLUMNS", "200")
        with pytest.raises(SystemExit) as ended:
            main()
        code = ended.value.code or 0
        assert isinstance(code, int)
        return code, *capsys.readouterr()

    return run


def test_the_pages_example_runs_in_full(condensery: Any, folder: Path) -> None:
    code, out, err = condensery(*SEARCH, "--trials", "3", "--out", "found")
    assert code == 0, err
    assert err.count("-- trial ") == 3
    lines = [line for line in out.splitlines() if " best" in line]
    assert len(lines) == 1
    number = lines[0].split()[0]
    recipe = load_recipe(folder / "found" / f"trial-{number}.yaml")
    report = json.loads((folder / "found" / "trials" / number / "report.json").read_text())
    assert report["after"]["bytes"] <= 6000
    assert report["after"]["quality"] == {}  # nothing looked at the test split
    assert recipe.dump() | {"validation": 0.1} == report["recipe"]
    assert f"condensery measure found/trials/{number}/artifact.safetensors" in out


@pytest.mark.parametrize("sampler", ["random", "tpe(startup=3)", "nsga2(population=3)"])
def test_each_sampler_searches_digits_and_goes_on(sampler: str, condensery: Any, folder: Path) -> None:
    command = [*QUICK, "--sampler", sampler]
    code, out, err = condensery(*command, "--trials", "6", "--out", "whole")
    assert code == 0, err
    whole = json.loads(out)
    assert [trial["state"] for trial in whole["trials"]] == ["complete"] * 6
    scores = [trial["values"][0] for trial in whole["trials"]]
    assert min(scores) < max(scores)
    momentum = "train.optimizer.options.momentum"
    assert all(
        (momentum in t["overrides"]) is (t["overrides"]["train.optimizer.name"] == "sgd") for t in whole["trials"]
    )
    (best,) = whole["best"]
    fitting = [t["number"] for t in whole["trials"] if t["excess"]["after.bytes"] <= 0]
    assert best == max(fitting, key=lambda number: (scores[number], -number))

    for trials in ("2", "6"):
        code, out, err = condensery(*command, "--trials", trials, "--out", "parts")
        assert code == 0, err
    assert json.loads(out)["trials"] == whole["trials"]


@pytest.mark.slow
def test_a_search_that_was_killed_goes_on(condensery: Any, folder: Path) -> None:
    command = [*QUICK, "--trials", "4", "--out"]
    process = subprocess.Popen(
        [sys.executable, "-m", "condensery_catalogue.cli", *command, "cut"], stdout=subprocess.DEVNULL
    )
    while process.poll() is None and not (folder / "cut" / "trials" / "2" / "log.jsonl").exists():
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL

    found, whole = (json.loads(condensery(*command, out)[1])["trials"] for out in ("cut", "whole"))
    assert max(trial["starts"] for trial in found) == 2
    assert [t | {"starts": 1} for t in found] == whole


def test_a_strangers_search_goes_on_from_the_best_net(
    condensery: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Registry.open([("stranger", offering(searches={"hill-climb": HillClimb}))])
    monkeypatch.setattr(searching, "open_registry", lambda: own)
    parameters = {"stages.0.magnitude.sparsity": {"low": 0.1, "high": 0.9}}
    space = {"parameters": parameters, "objectives": {"after.nonzeros": "minimize"}}
    (folder / "space.yaml").write_text(yaml.safe_dump(space))
    code, out, err = condensery(*QUICK, "--trials", "4", "--sampler", "hill-climb(radius=0.9)", "--out", "found")
    assert code == 0, err
    trials = json.loads(out)["trials"]
    assert [trial["start"] for trial in trials[:2]] == [None, 0]
    assert trials[1]["notes"]["from"] == 0
    first, second = (json.loads((folder / "found" / "trials" / n / "report.json").read_text()) for n in "01")
    assert second["before"]["nonzeros"] == first["after"]["nonzeros"] < first["before"]["nonzeros"]


def test_trials_that_cannot_be_the_best_are_shown_too(condensery: Any, folder: Path) -> None:
    text = EXAMPLES["space.yaml"].replace("at_most: 6000", "at_most: 10")
    (folder / "space.yaml").write_text(text)
    code, out, err = condensery(*SEARCH, "--budget", "quick", "--trials", "2", "--out", "found")
    assert code == 2
    assert out.count("after.bytes over its limit by") == 2
    assert err.splitlines()[-1] == "error: none of 2 trials has a score within the limits"
    assert not list((folder / "found").glob("trial-*.yaml"))


@pytest.mark.parametrize(
    ("file", "old", "new", "says"),
    [
        (
            "space.yaml",
            "high: 0.98}",
            "hihg: 0.98}",
            "space.yaml line 2: parameters.stages.0.magnitude.sparsity: unknown",
        ),
        ("space.yaml", "low: 0.5", "low: 1.5", "space.yaml line 2: .*got 1.5 to 0.98"),
        ("space.yaml", "stages.0.magnitude.scope", "stages.0.magnitud.scope", "line 3: .*did you mean 'magnitude'"),
        ("space.yaml", "train.optimizer.lr", "train.optimiser.lr", "line 5: .*did you mean 'optimizer'"),
        (
            "space.yaml",
            "train.optimizer.name: sgd",
            "optimizer.name: sgd",
            "line 6: .*did you mean 'train.optimizer.name'",
        ),
        ("space.yaml", "validation.accuracy", "validation.acuracy", "line 9: .*did you mean 'validation.accuracy'"),
        ("space.yaml", "validation.accuracy", "after.quality.accuracy", "line 9: .*measured on the test split"),
        ("space.yaml", "after.bytes", "after.byts", "line 11: .*did you mean 'after.bytes'"),
        ("space.yaml", "at_most: 6000", "at_most: many", "line 11: limits.after.bytes.at_most"),
        ("space.yaml", "objectives:", "objectives: [", "space.yaml: line 10: not plain YAML"),
        ("space.yaml", "[global, local]", "[globl]", "did you mean 'global'|must be one of"),
        ("recipe.yaml", "task: digits", "task: digit", "did you mean 'digits'"),
    ],
)
def test_what_is_wrong_in_a_file_is_one_line(
    file: str, old: str, new: str, says: str, condensery: Any, folder: Path
) -> None:
    assert old in EXAMPLES[file]
    (folder / file).write_text(EXAMPLES[file].replace(old, new, 1))
    code, _, err = condensery(*SEARCH, "--trials", "2")
    assert (code, len(err.splitlines())) == (2, 1), err
    assert re.search(says, err), err
    assert not (folder / "runs").exists()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (["--sampler", "tpee"], "did you mean 'tpe'"),
        (["--sampler", "tpe(start=3)"], "did you mean 'startup'"),
        (["--budget", "quik"], "did you mean 'quick'"),
        (["--prune", "medium"], "did you mean 'median'"),
        (["--device", "gpu"], "unknown device"),
        (["--space", "nowhere.yaml"], "no such file: nowhere.yaml"),
    ],
)
def test_what_is_wrong_in_the_command_is_one_line(changes: list[str], says: str, condensery: Any, folder: Path) -> None:
    code, _, err = condensery(*SEARCH, "--trials", "2", *changes)
    assert (code, len(err.splitlines())) == (2, 1), err
    assert says in err
    assert not (folder / "runs").exists()


def test_another_search_and_a_damaged_one_are_one_line(condensery: Any, folder: Path) -> None:
    command = [*QUICK, "--out", "found", "--trials"]
    assert condensery(*command, "1")[0] == 0
    code, _, err = condensery(*command, "2", "--seed", "7")
    assert (code, len(err.splitlines())) == (2, 1)
    assert "holds another search" in err
    journal = folder / "found" / "trials.jsonl"
    journal.write_bytes(journal.read_bytes().replace(b"accuracy", b"acuracy", 1))
    code, _, err = condensery(*command, "2")
    assert (code, len(err.splitlines())) == (2, 1)
    assert "trials.jsonl line 2: damaged" in err
