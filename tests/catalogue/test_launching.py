"""``--launch``: torchrun starts the processes, and they leave one folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.catalogue.commands import condensery

from condensery.files import read_json
from condensery_catalogue.launching import without_launch

LINE = ["compose", "ef-signsgd", "--model", "mlp", "--epochs", "1", "--launch", "2"]


def test_the_processes_are_not_launched_again() -> None:
    assert without_launch(["run", "r.yaml", "--launch", "2", "--out", "o"]) == ["run", "r.yaml", "--out", "o"]
    assert without_launch(["run", "--launch=4", "r.yaml"]) == ["run", "r.yaml"]


def test_other_commands_are_for_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    done = condensery("list")
    assert done.returncode == 2
    assert "WORLD_SIZE > 1: list is for one process" in done.stderr


def test_what_is_wrong_is_said_before_anything_is_launched(tmp_path: Path) -> None:
    done = condensery(*LINE, "--set", "stages.0.ef-signsgd.feedbak=true", cwd=tmp_path)
    assert done.returncode == 2
    assert "did you mean 'feedback'" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_run_in_two_processes(tmp_path: Path) -> None:
    """One report, and a code that a worker sends."""
    command = [sys.executable, "-m", "condensery_catalogue.cli", *LINE, "--json"]
    env = {**os.environ, "CONDENSERY_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

    printed = json.loads(done.stdout)
    assert printed["processes"] == 2
    assert printed["training"]["sent_ratio"] > 20
    (folder,) = (tmp_path / "runs").iterdir()
    assert read_json(folder / "report.json", "")["after"] == printed["after"]
    left = {"recipe.json", "log.jsonl", "report.json", "artifact.safetensors"}
    assert {path.name for path in folder.iterdir()} == left
