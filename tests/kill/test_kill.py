"""A part of ``make test-kill`` in every run of the tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.kill.kinds import KINDS

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": ":".join([str(ROOT), *filter(None, sys.path)]), "OMP_NUM_THREADS": "1"}


def kills(*arguments: str) -> str:
    """Kill in a process of its own: what is forked there must not inherit what other tests have open."""
    command = [sys.executable, str(ROOT / "tests/kill/run.py"), *arguments, "--jobs", "1"]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    return done.stdout


def test_killed_commands_end_as_if_nothing_had_been() -> None:
    kinds = [word for kind in ("snapshots", "base", "search", "reproduce") for word in ("--kind", kind)]
    said = kills("--random", "2", "--aimed", "8", *kinds)
    assert "2 random and 8 aimed kills, seed 0: 0 fell" in said


@pytest.mark.slow
def test_20_kills_of_all_kinds() -> None:
    said = kills("--random", "10", "--aimed", "10", "--seed", "1")
    assert all(kind in said for kind in KINDS)


def test_the_same_recipe_gives_the_same_artifact_whatever_the_hash_seed(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from tests.kill.kinds import KINDS;"
        "Path(sys.argv[1]).mkdir(); KINDS['rounds'].play(Path(sys.argv[1]))"
    )
    for number in ("1", "2"):
        command = [sys.executable, "-c", code, str(tmp_path / number)]
        subprocess.run(command, check=True, env={**ENVIRONMENT, "PYTHONHASHSEED": number})
    one, other = (tmp_path / number / "out" / "artifact.safetensors" for number in ("1", "2"))
    assert one.stat().st_size > 5_000
    assert one.read_bytes() == other.read_bytes()
