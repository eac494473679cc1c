"""What CONTRIBUTING names is there, and its steps, done as they are written, end in a method that passes."""

from __future__ import annotations

import ast
import os
import re
import resource
import shutil
import subprocess
import sys
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


# ---------------------------------------------------------------- followed to the letter

TOOLS = ("python", "pytest", "ruff", "mypy", "lint-imports", "condensery")
"""What `make demo` puts into `.venv/bin`, as far as the steps use it."""
UNRUN = ("make demo", "make test", "make test-all")
"""Not run here: setting up, which takes 5.7 GB, and the whole suite, of which this test is a part."""
CENTRAL = ("show", "new-method", "reproduce", "add", "commit", "matrix", "cards", "lint")
SUITE = "tests/plugins/test_contract.py"
MINUTES = 10
"""From the first command to a contract suite that passes, at most, on a core that does nothing else."""


def commands_of(section: str, *begins: str) -> list[str]:
    """Return the commands in a section of the text, in its order: code that begins as one."""
    text = TEXT.partition(f"## {section}\n")[2].partition("\n## ")[0]
    codes = [" ".join(found.split()) for found in re.findall(r"(?<!`)`([^`]+)`(?!`)", text)]
    return [code for code in codes if code.startswith(begins) and code not in UNRUN]


def filled(command: str, key: str, family: str) -> str:
    """Return a command with a key in the place of what stands for one."""
    for name, word in {"key": key, "method": key.replace("-", "_"), "family": family}.items():
        command = command.replace(f"<{name}>", word)
    return command


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Copy this checkout, with what is not committed yet, and commit it there."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    if shutil.which("git") is None or subprocess.run(listed, cwd=ROOT, capture_output=True, check=False).returncode:
        pytest.skip("needs a git checkout")
    folder = tmp_path / "tree"
    for name in subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0"):
        if (ROOT / name).is_file() and not (ROOT / name).is_symlink():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)

    # A real .venv, whose tools are those that run this test: a link to theirs would be ruled by another pyproject.toml.
    tools = folder / ".venv" / "bin"
    tools.mkdir(parents=True)
    for tool in TOOLS:
        (tools / tool).write_text(f'#!/bin/sh\nexec "{Path(sys.executable).parent / tool}" "$@"\n')
        (tools / tool).chmod(0o755)
    (folder / ".venv" / "installed").touch()
    if (ROOT / ".mypy_cache").is_dir():
        shutil.copytree(ROOT / ".mypy_cache", folder / ".mypy_cache", symlinks=True)

    run("git init -q && git add -A && git commit -qm Start", folder, folder)
    return folder


def run(command: str, folder: Path, tree: Path) -> str:
    """Run a command as a user of a checkout would, with its own code and an empty cache; returns what it printed."""
    paths = [str(tree / name) for name in ("core", "plugins", "catalogue", "reproductions")]
    names = {f"GIT_{who}_{what}": "a@b.c" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    own = {
        "PYTHONPATH": os.pathsep.join(paths),
        "PATH": os.pathsep.join([str(tree / ".venv" / "bin"), os.environ["PATH"]]),
        "CONDENSERY_CACHE": str(tree.parent / "cache"),
        "COLUMNS": "120",
    }
    environment = {**os.environ, **names, **own}
    done = subprocess.run(
        ["bash", "-ec", command], cwd=folder, env=environment, capture_output=True, text=True, timeout=1800, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def worked() -> float:
    """Return how many seconds all commands so far have kept a core busy, whatever else the machine does."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_the_steps_have_their_commands() -> None:
    steps = commands_of("A paper in eight steps", "condensery ", "make ", ".venv/bin/", "git ")
    words = [word for command in steps for word in command.split() if word in (*CENTRAL, SUITE)]
    first, then = ["show", "new-method", "show", SUITE, "reproduce"], ["reproduce", "matrix", "cards", "lint"]
    assert words == [*first, "add", "commit", *then]
    assert len(steps) == len(words) + 1  # and the method's own test
    own = commands_of("From a package of your own", "condensery ", "cd ", "pytest")
    assert [command.split()[0] for command in own] == ["condensery", "cd", "pytest", "condensery", "condensery"]


@pytest.mark.slow
def test_a_paper_in_eight_steps(tree: Path) -> None:
    """Each command of the steps, in their order, on the method that is there to begin with."""
    began, key = worked(), "tried-out"
    for command in commands_of("A paper in eight steps", "condensery ", "make ", ".venv/bin/", "git "):
        said = run(filled(command, key, "pruning"), tree, tree)
        print(f"{worked() - began:6.0f} s  {command}")
        if SUITE in command:
            assert re.search(r" \d+ passed", said), said
            assert worked() - began < 60 * MINUTES

    assert (tree / "reproductions" / "condensery_reproductions" / key / "desk.json").is_file()
    for page in ("README.md", "catalogue/docs/results.md", "catalogue/docs/claims.md"):
        assert f"`{key}`" in (tree / page).read_text(), page


@pytest.mark.slow
def test_a_package_of_your_own(tree: Path, tmp_path: Path) -> None:
    began, key = worked(), "tried-elsewhere"
    steps = commands_of("From a package of your own", "condensery ", "cd ", "pytest")
    said = run(filled(" && ".join(steps), key, "quantization"), tmp_path, tree)
    print(f"{worked() - began:6.0f} s")
    assert "nothing is wrong" in said
    assert (tmp_path / f"condensery-{key}" / "runs" / "reproduce" / key / "smoke" / "result.json").is_file()
    assert worked() - began < 60 * MINUTES
