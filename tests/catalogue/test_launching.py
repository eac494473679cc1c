"""``--launch``: torchrun starts the processes, and they leave one folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from condensery_catalogue.launching import without_launch

COMMAND = [sys.executable, "-m", "condensery_catalogue.cli"]


def test_the_processes_are_not_launched_again() -> None:
    assert without_launch(["run", "r.yaml", "--launch", "2", "--out", "o"]) == ["run", "r.yaml", "--out", "o"]
    assert without_launch(["run", "--launch=4", "r.yaml"]) == ["run", "r.yaml"]


def test_other_commands_are_for_one_process() -> None:
    done = subprocess.run(
        [*COMMAND, "list"], env={**os.environ, "WORLD_SIZE": "2"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "WORLD_SIZE > 1: list is for one process" in done.stderr


@pytest.mark.slow
def test_a_run_in_two_processes(tmp_path: Path) -> None:
    """What is wrong is said once and leaves nothing; then one report, and a code that a worker sends."""
    line = ["compose", "ef-signsgd", "--model", "mlp", "--epochs", "1", "--launch", "2"]
    env = {**os.environ, "CONDENSERY_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    wrong = subprocess.run(
        [*COMMAND, *line, "--set", "train.lr=1"], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert wrong.returncode == 2
    assert wrong.stderr.count("error:") == 1

    done = subprocess.run(
        [*COMMAND, *line, "--json"], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert printed["processes"] == 2
    assert printed["training"]["sent_ratio"] > 20
    (folder,) = (tmp_path / "runs").iterdir()
    assert json.loads((folder / "report.json").read_text()) == printed
    assert {path.name for path in folder.iterdir()} == {
        "recipe.json",
        "log.jsonl",
        "report.json",
        "artifact.safetensors",
    }
