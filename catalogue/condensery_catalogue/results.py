"""Stored results: where they lie, what they hold, and which commit of the code made them. Imports no torch."""

from __future__ import annotations

import json
import math
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

CHECKOUT = Path("reproductions")


def results_home() -> Path | None:
    """Return ``reproductions/results`` where the current folder is a checkout of this project, else ``None``."""
    return CHECKOUT / "results" if (CHECKOUT / "condensery_reproductions").is_dir() else None


def stored_results(key: str = "*") -> list[dict[str, Any]]:
    """Return the results of one reproduction, or of all, that this checkout holds, by file name."""
    home = results_home()
    if home is None:
        return []
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(home.glob(f"{key}/*.json"))]


def heading(result: Mapping[str, Any]) -> str:
    """Return what result this is, in one line."""
    scale = result["scale"] if result["scale"] == "scaled-down" else f"{result['scale']}'s scale"
    seeds = len(result["seeds"])
    return f"{result['key']}, {result['tier']} tier, {scale}, {seeds} seed{'s' * (seeds != 1)}"


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


def spread(figures: Mapping[str, Any] | None) -> str:
    """Return mean and deviation of a summary in words, to the deviation's first digit: 2 to 4 decimals."""
    if figures is None:
        return "-"
    mean, deviation = figures["mean"], figures["std"]
    if deviation is None:
        return f"{mean:.2f}"
    places = min(max(-math.floor(math.log10(deviation)), 2), 4) if deviation else 2
    return f"{mean:.{places}f} ± {deviation:.{places}f}"


def measured(comparison: Mapping[str, Any]) -> str:
    """Return what a comparison measured in words: baseline, arm, and the gain where this is what is claimed."""
    before = f"{spread(comparison['baseline'])} -> " if comparison["baseline"] else ""
    gain = f", gain {spread(comparison['gain'])}" if comparison["answers"] == "gain" else ""
    return f"{before}{spread(comparison['measured'])} {comparison['metric'].rpartition('.')[2]}{gain}"


def went(comparison: Mapping[str, Any], seeds: int) -> str:
    """Return a comparison's direction in words; with one seed the noise isn't known."""
    if comparison["direction"] is None:
        return "-"
    return str(comparison["direction"]) + (" (one seed)" if seeds == 1 else "")


def answer(comparison: Mapping[str, Any]) -> str:
    """Return a comparison's verdict in words that stand alone."""
    said = comparison["verdict"] or "-"
    words: dict[str, str] = {"not": "not reproduced", "partly": "partly reproduced"}
    return words.get(said, str(said))
