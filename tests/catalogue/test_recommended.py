"""Each command that a command, an error or a page recommends is one that there is, with options that it takes."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from tests.catalogue.commands import condensery

from condensery import Registry
from condensery_catalogue.cli import app
from condensery_catalogue.demo import NEXT
from condensery_catalogue.reproduction import load_reproduction
from condensery_catalogue.results import usual_tier

ROOT = Path(__file__).parents[2]
COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
PROSE = {"among", "has", "reads", "and"}
"""Words that follow the project's own name in a sentence."""
REGISTRY = Registry.open()


def texts(path: Path) -> Iterator[str]:
    """Yield a page, or the texts in a file's code, with ``{}`` for what is filled in."""
    if path.suffix == ".md":
        # Prose puts a command into backquotes or on a line of its own.
        for block in re.findall(r"`(condensery [^`]*)`|^(?:\$ | {4})(condensery .*)$", path.read_text(), re.MULTILINE):
            yield block[0] or block[1].partition("  #")[0]
        return
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(v.value) if isinstance(v, ast.Constant) else "{}" for v in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def recommended() -> list[tuple[str, str]]:
    """Return where a command stands, and the command."""
    sources = [p for home in ("core", "plugins", "catalogue") for p in (ROOT / home).rglob("*.py")]
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "catalogue" / "docs").glob("*.md")]
    found = []
    for path in [*sources, *pages]:
        for text in texts(path):
            for words in re.findall(r"(?<![\w./{])condensery +([a-z][a-z-]*(?: +[^\s`;,)]+)*)", text):
                if words.split()[0] not in PROSE:
                    found.append((str(path.relative_to(ROOT)), words))
    return found


def fault(words: str) -> str | None:
    """Return what is wrong with a command, its arguments aside."""
    name, *rest = words.split()
    command = COMMANDS.get(name.rstrip("."))
    if command is None:
        return f"no command {name!r}"
    if hasattr(command, "commands") and rest:
        command = command.commands.get(rest[0])
        if command is None:
            return f"no command {name} {rest[0]!r}"
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    wrong = [word for word in rest if re.fullmatch(r"--[a-z-]+", word) and word not in {*known, "--help"}]
    return f"no option {wrong[0]}" if wrong else None


def test_what_is_recommended_is_there() -> None:
    found = recommended()
    assert {"data", "fit", "show", "reproduce", "compose"} <= {words.split()[0] for _, words in found}
    assert [(where, words, wrong) for where, words in found if (wrong := fault(words))] == []


@pytest.mark.parametrize("words", ["nosuch", "show KEY --tyer desk", "results exprot"])
def test_what_is_not_there_is_found(words: str) -> None:
    assert fault(words)


@pytest.mark.parametrize("key", REGISTRY.keys("recipes"))
def test_the_tier_that_show_recommends_is_there(key: str) -> None:
    assert usual_tier(REGISTRY, key) in load_reproduction(REGISTRY, key).tiers


@pytest.mark.slow
@pytest.mark.parametrize("command", [command for command, _ in NEXT])
def test_what_the_demo_recommends_runs(command: str, tmp_path: Path) -> None:
    done = condensery(*shlex.split(command)[1:], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
