"""What every command takes, and the commands that tell what there is."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from tests.catalogue.commands import condensery

from condensery_catalogue.app import COMMON
from condensery_catalogue.cli import app

MODEL = """
from torch import nn
from condensery import hookimpl

condensery_api = 1

@hookimpl
def register_models(register):
    register("front-door-net", lambda facts, name: nn.Linear(2, 1))
"""


def test_the_version() -> None:
    assert condensery("--version").stdout == f"condensery {importlib.metadata.version('condensery')}\n"


def test_every_command_takes_a_plugin() -> None:
    import typer.main

    for path in ([], ["results"]):
        group = typer.main.get_command(app)
        for word in path:
            group = group.commands[word]  # type: ignore[attr-defined]
        for name, command in group.commands.items():  # type: ignore[attr-defined]
            options = {option for parameter in command.params for option in parameter.opts}
            assert hasattr(command, "commands") or {"--plugin", "--verbose", "-v"} <= options, name


def test_a_plugins_file_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "front_door_plugin.py").write_text(MODEL)
    done = condensery("plugins", "--json", "--plugin", "front_door_plugin.py", cwd=tmp_path)
    assert '"front_door_plugin"' in done.stdout
    assert '"front_door_plugin"' not in condensery("plugins", "--json").stdout


def test_what_is_wrong_with_a_named_plugin_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "front_door_broken.py").write_text(MODEL.replace("condensery_api = 1", ""))
    done = condensery("list", "--plugin", "front_door_broken.py", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "write condensery_api = 1" in done.stderr
    assert done.stderr.count("\n") == 1


def test_verbose_says_which_plugins_there_are(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "condensery_catalogue.cli", "list", "-v"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "plugin builtin: condensery" in done.stderr


def test_a_shell_completes_keys() -> None:
    code = "import sys; sys.argv[0] = 'condensery'; from condensery_catalogue.cli import main; main()"
    asked = {"_CONDENSERY_COMPLETE": "complete_bash", "COMP_WORDS": "condensery show hinton", "COMP_CWORD": "2"}
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **asked}, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["hinton-kd"]


def test_every_command_takes_what_all_have_in_common() -> None:
    def leaves(command: Any) -> Iterator[Any]:
        for inner in getattr(command, "commands", {}).values():
            yield from leaves(inner)
        if not hasattr(command, "commands"):
            yield command

    found = list(leaves(typer.main.get_command(app)))
    assert {"list", "build", "export"} <= {command.name for command in found}
    for command in found:
        assert set(COMMON) <= {parameter.name for parameter in command.params}, command.name
