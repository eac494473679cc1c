"""The files, commands and options that CONTRIBUTING names are there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import typer

from condensery_catalogue.cli import app

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
CODE = [" ".join(found.split()) for found in re.findall(r"(?<!`)`([^`]+)`(?!`)", TEXT)]
FOLDERS = ("core/", "plugins/", "catalogue/", "reproductions/", "tests/")


def test_a_paper_takes_at_most_eight_steps() -> None:
    steps = re.findall(r"^(\d+)\. ", TEXT, flags=re.MULTILINE)
    assert steps == [str(number) for number in range(1, len(steps) + 1)]
    assert 5 <= len(steps) <= 8


def test_its_files_are_there() -> None:
    """What stands for a name, ``<family>``, may be any."""
    named = [word for code in CODE for word in code.split() if word.startswith(FOLDERS)]
    assert len(named) >= 7
    for name in [*named, *re.findall(r"\]\(([^)]+)\)", TEXT)]:
        assert list(ROOT.glob(re.sub(r"<\w+>", "*", name))), name


def test_its_commands_are_there() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = [word for code in CODE if code.startswith("make ") for word in code.split()[1:]]
    assert {"cards", "test", "lint"} <= set(targets)
    for target in targets:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target

    commands = [code.split()[1] for code in CODE if code.startswith("condensery ")]
    assert {"show", "reproduce"} <= set(commands)
    assert set(commands) <= set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


def test_its_pytest_options_are_known(pytestconfig: pytest.Config) -> None:
    options = re.findall(r"--(condensery-\w+)", TEXT)
    assert set(options) == {"condensery-method"}
    for option in options:
        pytestconfig.getoption(option.replace("-", "_"))


def test_its_examples_can_be_read() -> None:
    examples = re.findall(r"```python\n(.+?)```", TEXT, flags=re.DOTALL)
    assert examples
    for example in examples:
        ast.parse(example)
