"""A part of ``make fuzz`` in every run of the tests, and that the look itself sees what must not be."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.fuzz.cases import KINDS
from tests.fuzz.forked import run_case

from condensery.errors import UsageError

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("cases", [100, pytest.param(300, marks=pytest.mark.slow)])
def test_some_cases(cases: int) -> None:
    """In a process of its own: cases are forked, and must not inherit what other tests have open."""
    command = [sys.executable, str(ROOT / "tests/fuzz/run.py"), "--cases", str(cases), "--seed", "300", "--jobs", "1"]
    paths = [str(ROOT), *(p for p in sys.path if p)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**_environment(), "PYTHONPATH": ":".join(paths)}
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert f"{cases} cases, seed 300: 0 fell" in done.stdout
    assert all(kind in done.stdout for kind in KINDS)


def _environment() -> dict[str, str]:
    import os

    return {**os.environ, "OMP_NUM_THREADS": "1"}


def imports(folder: Path) -> None:
    (folder / "evil.py").write_text("")
    __import__("evil")


def starts(folder: Path) -> None:
    subprocess.run(["true"], check=True)


def leaves(folder: Path) -> None:
    (folder / ".x.json.0123456789ab.json").touch()


def several(folder: Path) -> None:
    raise UsageError("two\nlines")


def long(folder: Path) -> None:
    raise UsageError("x" * 301)


def ends(folder: Path) -> None:
    raise SystemExit(0)


def refuses(folder: Path) -> None:
    raise UsageError(f"{folder}: no")


@pytest.mark.parametrize(
    ("case", "kind"),
    [
        (imports, "executed"),
        (starts, "executed"),
        (leaves, "left behind"),
        (several, "several lines"),
        (long, "several lines"),
        (ends, "traceback"),
        (refuses, "refused"),
        (lambda folder: None, "valid"),
        (lambda folder: time.sleep(8), "hung"),
        (lambda folder: sum(range(10**12)), "hung"),
        (lambda folder: bytes(10**12), "memory"),
    ],
)
def test_the_look_itself_sees(case: object, kind: str) -> None:
    outcome = run_case(case, seconds=1)  # type: ignore[arg-type]
    assert outcome.kind == kind, outcome
