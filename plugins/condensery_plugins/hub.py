"""What is loaded by name from a folder, or from the Hugging Face Hub."""

from __future__ import annotations

import os
from pathlib import Path

from condensery import UsageError
from condensery.tasks import hub_reachable


def expanded(name: str) -> Path:
    """Return a name as a path, with the user's folder and environment variables in it expanded."""
    return Path(os.path.expandvars(name)).expanduser()


def find_source(name: str, what: str) -> tuple[str, bool]:
    """Return where something is loaded from, and whether that is a folder on this machine.

    :param name: path of a folder, or an id on the hub.
    :param what: it is, for messages: ``"tokenizer bert-base-uncased"``.
    :raises UsageError: if there is no such folder, or the hub can't be reached.
    """
    path = expanded(name)
    if path.is_dir():
        return str(path), True
    if "$" in str(path) or path.is_absolute() or name.startswith("."):
        raise UsageError(f"{what}: no such folder: {path}")
    if not hub_reachable():
        raise UsageError(f"{what}: no such folder, and the Hugging Face Hub can't be reached")
    return name, False


def one_line(error: Exception, most: int = 200) -> str:
    """Return what another library's error says, in one line of limited length."""
    return " ".join(str(error).split())[:most]
