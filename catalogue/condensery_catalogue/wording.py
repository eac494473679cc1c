"""Claims and figures in words, the same in every table, page and picture. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

RECALLED = "recalled"
VERDICTS = {"not": "not reproduced", "partly": "partly reproduced", None: "-"}
"""Verdicts that don't stand alone, in words that do."""

# ---------------------------------------------------------------- what a paper claims


def figure(said: Mapping[str, Any] | None) -> str:
    """Return a claim's figure, marked where it was only recalled."""
    if said is None:
        return "-"
    value = said["value"]
    text = f"{value:g}" if isinstance(value, (int, float)) else str(value)
    return f"{text} (recalled, not read)" if said["source"] == RECALLED else text


def claimed(claim: Mapping[str, Any]) -> str:
    """Return what a claim says: baseline, value and unit; a statement has none."""
    before = f"{figure(claim['baseline'])} -> " if claim.get("baseline") else ""
    unit = "" if isinstance(claim["value"]["value"], str) else f" {claim['unit']}"
    return f"{before}{figure(claim['value'])}{unit}"


def subject(claim: Mapping[str, Any]) -> str:
    """Return what a claim is about: metric, model, setting and data set."""
    setting = (claim["model"], claim.get("setting"), claim["dataset"])
    return f"{claim['metric']}: {', '.join(word for word in setting if word)}"


def source(claim: Mapping[str, Any]) -> str:
    """Return how a claim's figure is known, where it stands, and whether others than the authors say so."""
    where = claim["value"].get("where") or claim.get("table")
    by = ", by a third party" if claim.get("by") == "third party" else ""
    return f"{claim['value']['source']}{f': {where}' if where else ''}{by}"


# ---------------------------------------------------------------- what was measured here


def heading(result: Mapping[str, Any]) -> str:
    """Return what result this is, in one line."""
    scale = result["scale"] if result["scale"] == "scaled-down" else f"{result['scale']}'s scale"
    seeds = len(result["seeds"])
    return f"{result['key']}, {result['tier']} tier, {scale}, {seeds} seed{'s' * (seeds != 1)}"


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


def collapse(arm: Mapping[str, Any]) -> str:
    """Return in how many seeds the nets of an arm collapsed; an empty text where none did."""
    seeds: list[Any] = arm.get("collapsed", [])
    gone = sum(map(bool, seeds))
    if not gone:
        return ""
    return "collapsed" if gone == len(seeds) else f"collapsed in {gone} of {len(seeds)} seeds"


def collapses(entries: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return a report's entries on what collapsed in words, each once: the stage, its methods, what it was."""
    said = []
    for entry in entries:
        methods = ", ".join(entry["methods"]) or "no method"
        said.append(f"collapsed in stage {entry['stage']} ({methods}): {', '.join(entry['what'])}")
    return list(dict.fromkeys(said))


def went(result: Mapping[str, Any], comparison: Mapping[str, Any]) -> str:
    """Return a comparison's direction in words; with one seed the noise isn't known."""
    if comparison["direction"] is None:
        return "-"
    return str(comparison["direction"]) + (" (one seed)" if len(result["seeds"]) == 1 else "")


def answer(result: Mapping[str, Any], comparison: Mapping[str, Any]) -> str:
    """Return a comparison's verdict in words that stand alone, and which of its arms collapsed."""
    verdict = comparison["verdict"]
    arms = [arm for arm in (comparison["arm"], comparison["baseline_arm"]) if arm is not None]
    gone = [f"{arm} {words}" for arm in arms if (words := collapse(result["arms"][arm]))]
    return "; ".join([VERDICTS.get(verdict, str(verdict)), *gone])
