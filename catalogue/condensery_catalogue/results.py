"""Stored results: where they lie, what they hold, and which commit of the code made them. Imports no torch."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

CHECKOUT = Path("reproductions")


def results_home() -> Path | None:
    """Return ``reproductions/results`` where the current folder is a checkout of this project, else ``None``."""
    return CHECKOUT / "results" if (CHECKOUT / "condensery_reproductions").is_dir() else None


def stored_results(key: str) -> list[dict[str, Any]]:
    """Return the results of one reproduction that this checkout holds, by file name."""
    home = results_home()
    if home is None:
        return []
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted((home / key).glob("*.json"))]


def commit() -> str | None:
    """Return the commit of the code that runs, ending in ``-dirty`` where files differ from it.

    ``None`` for an installed package: a repository that happens to lie around it says nothing about the code.
    """
    here = Path(__file__).resolve().with_name("__init__.py")

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here.parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", here.name)
        return git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*") or None
    except (OSError, subprocess.SubprocessError):
        return None


def spread(figures: dict[str, Any] | None) -> str:
    """Return mean and deviation of a summary in words."""
    if figures is None:
        return "-"
    deviation = "" if figures["std"] is None else f" ± {figures['std']:.2f}"
    return f"{figures['mean']:.2f}{deviation}"
