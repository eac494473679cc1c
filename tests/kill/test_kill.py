"""A part of ``make test-kill`` in every run of the tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.kill.kinds import KINDS

from condensery import load

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


PLAY = """
import sys, torch
from pathlib import Path
from tests.kill.kinds import KINDS

torch.set_num_threads(int(sys.argv[2]))
Path(sys.argv[1]).mkdir()
KINDS["cut"].play(Path(sys.argv[1]))
"""


def test_what_is_equal_bit_for_bit(tmp_path: Path) -> None:
    """As catalogue/docs/reliability.md says; a run that was killed is compared above."""

    def played(name: str, threads: int = 1, **environment: str) -> Path:
        command = [sys.executable, "-c", PLAY, str(tmp_path / name), str(threads)]
        subprocess.run(command, check=True, env={**ENVIRONMENT, **environment})
        return tmp_path / name / "out" / "artifact.safetensors"

    KINDS["cut"].play(tmp_path / "1")
    once = tmp_path / "1" / "out" / "artifact.safetensors"
    again = played("2", PYTHONHASHSEED="2" if os.environ.get("PYTHONHASHSEED") == "1" else "1")
    parallel = played("3", threads=2)
    assert once.stat().st_size > 5_000
    assert once.read_bytes() == again.read_bytes()

    # Two threads take sums in another order: the same net but for rounding, so that no more is promised.
    one, two = (load(path).state_dict() for path in (once, parallel))
    assert all(torch.allclose(two[name], value, atol=1e-3) for name, value in one.items())
