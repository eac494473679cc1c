"""``check``: what is wrong with a package's plugin, in words, and the contract suite on it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.catalogue.commands import condensery, started

STRANGERS = Path(__file__).parent / "strangers"


def stranger(name: str) -> str:
    """Return the file of a stranger's plugin."""
    return str(STRANGERS / name / f"stranger_{name}.py")


@pytest.fixture
def suite(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What pytest was started with; it says that a test failed."""
    return started(monkeypatch, 1)


def test_the_suite_tries_the_plugins_methods_and_decides(suite: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(STRANGERS / "good")
    done = condensery("check", stranger("good"))
    assert "stranger_good offers 1 papers, 1 methods, 1 layers" in done.stdout
    assert "missing: sign-weights's card has no claims" in done.stdout
    assert "missing: sign-weights has no recipe" in done.stdout
    assert "wrong:" not in done.stdout
    (command,) = suite
    assert "--condensery-plugin=stranger_good" in command
    assert command[:3] == [sys.executable, "-m", "pytest"]
    assert "not slow" in command
    assert done.returncode == 1


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("unmarked", "lack @hookimpl and would never run|lacks @hookimpl and would never run"),
        ("unstated", "write condensery_api = 1"),
        ("misspelt", "register_"),
    ],
)
def test_what_is_wrong_is_said_and_the_suite_not_run(
    name: str, says: str, suite: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    import re

    monkeypatch.syspath_prepend(STRANGERS / name)
    done = condensery("check", stranger(name))
    assert done.returncode == 1, done.stderr
    assert re.search(f"wrong: .*({says})", done.stdout)
    assert "mend what is wrong first" in done.stdout
    assert suite == []


def test_a_package_that_is_not_installed_is_one_line() -> None:
    done = condensery("check", "condensry")
    assert done.returncode == 2
    assert "did you mean 'condensery'" in done.stderr


def test_a_package_is_found_by_its_name_too(suite: list[Any]) -> None:
    done = condensery("check", "condensery")
    assert "builtin offers" in done.stdout
    assert "reproductions offers" in done.stdout
    assert "wrong:" not in done.stdout
    assert "--condensery-plugin=builtin" in suite[0]


@pytest.mark.slow
def test_a_strangers_method_keeps_the_contract(tmp_path: Path) -> None:
    """The suite itself, in a process of its own, on a plugin that no package announces."""
    command = [sys.executable, "-m", "condensery_catalogue.cli", "check", stranger("good")]
    done = subprocess.run(command, cwd=STRANGERS / "good", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "all is as it should be" in done.stdout
    assert " passed" in done.stdout
