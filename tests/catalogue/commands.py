"""The command line, run in this process: starting another one takes longer than most commands do."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import pytest

from condensery_catalogue.cli import main


class Done(NamedTuple):
    """How a command ended, and what it said."""

    returncode: int
    stdout: str
    stderr: str


def condensery(*arguments: str, cwd: Path | None = None) -> Done:
    """Run a command as a process of its own would, without the data folder of the environment."""
    environment = {name: value for name, value in os.environ.items() if name != "CONDENSERY_DATA"}
    out, err, code = io.StringIO(), io.StringIO(), 0
    with (
        mock.patch.object(sys, "argv", ["condensery", *arguments]),
        mock.patch.dict(os.environ, environment, clear=True),
        contextlib.chdir(cwd or Path.cwd()),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return Done(code, out.getvalue(), err.getvalue())


def started(monkeypatch: pytest.MonkeyPatch, code: int) -> list[list[str]]:
    """Start no processes: each command only goes into the list that is returned, and ends with this code."""
    called: list[list[str]] = []

    def run(command: list[str], **how: Any) -> subprocess.CompletedProcess[str]:
        called.append(command)
        return subprocess.CompletedProcess(command, code)

    monkeypatch.setattr(subprocess, "run", run)
    return called
