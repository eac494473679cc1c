"""A part of ``make test-kill`` in every run of the tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.core.helpers import registry
from tests.kill.killed import RECIPES

from condensery import Run

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": ":".join([str(ROOT), *filter(None, sys.path)]), "OMP_NUM_THREADS": "1"}


def test_killed_runs_end_as_if_nothing_had_been() -> None:
    """In a process of its own: runs are forked, and must not inherit what other tests have open."""
    aimed = ["--random", "1", "--aimed", "4", "--kind", "snapshots", "--kind", "base", "--jobs", "1"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests/kill/run.py"), *aimed],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert "1 random and 4 aimed kills, seed 0: 0 fell" in done.stdout


@pytest.mark.slow
def test_20_kills_of_all_kinds() -> None:
    command = [sys.executable, str(ROOT / "tests/kill/run.py"), "--random", "13", "--aimed", "7"]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]


def test_the_same_recipe_gives_the_same_artifact_whatever_the_hash_seed(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from tests.kill.killed import run;"
        "Path(sys.argv[1]).mkdir(); run('rounds', Path(sys.argv[1]))"
    )
    seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    command = [sys.executable, "-c", code, str(tmp_path / "other")]
    subprocess.run(command, check=True, env={**ENVIRONMENT, "PYTHONHASHSEED": seed})
    Run(RECIPES["rounds"](), registry(), out=tmp_path / "one" / "out", device="cpu").execute()
    one, other = (tmp_path / name / "out" / "artifact.safetensors" for name in ("one", "other"))
    assert one.stat().st_size > 5_000
    assert one.read_bytes() == other.read_bytes()
