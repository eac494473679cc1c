"""Claims and figures in words, the same in every table, page and picture. Imports no torch."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

RECALLED = "recalled"
UNSURE = {RECALLED: " (recalled, not read)", "second-hand": " (second-hand)"}
"""How a figure is marked that nobody here has read where it was published."""
VERDICTS = {"not": "not reproduced", "partly": "partly reproduced"}
"""Verdicts that don't stand alone, in words that do."""

EFFECT = "An effect is arm less baseline, turned so that more is better, with its 95 % interval over the seeds."
EXPLAINED = {
    "reproduced": "the interval contains what the paper says and excludes that there is nothing to it: no difference "
    "for a gain, the stated margin for a loss",
    "partly": "on the claimed side, but not what the paper says",
    "inconclusive": "the interval contains both what the paper says and that there is nothing to it",
    "not": "neither, or the net collapsed: a layer of it died, or its outputs no longer depend on its inputs",
    "scaled-down": "another net, data set or schedule than the paper's, with where it points",
}
"""What each verdict means, for the places where it stands; ``docs/verdicts.md`` has the whole rule."""

COEFFICIENTS = {"kendall": "tau", "spearman": "rho"}
"""What the numbers are called that say how alike two figures rank arms."""


def explained(words: Iterable[str]) -> str:
    """Return what some verdicts mean, one sentence each, in the order from best to worst."""
    kept = set(words)
    return " ".join(f"{VERDICTS.get(w, w).capitalize()}: {said}." for w, said in EXPLAINED.items() if w in kept)


# ---------------------------------------------------------------- what a paper claims


DOUBT = "[36]? marks a guess which paper the survey means by a number."
"""What stands under tables with references."""


def reference(card: Mapping[str, Any]) -> str:
    """Return a card's number in the survey, with a mark where it is a guess; empty for a method without one."""
    sure = (card.get("identity") or {}).get("confidence", "certain") == "certain"
    return f"[{card['ref']}]{'' if sure else '?'}" if card.get("ref") else ""


def figure(said: Mapping[str, Any] | None) -> str:
    """Return a claim's figure, marked where it wasn't read where it was published."""
    if said is None:
        return "-"
    value = said["value"]
    text = f"{value:g}" if isinstance(value, (int, float)) else str(value)
    return text + UNSURE.get(said["source"], "")


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
    """Return how a claim's figure is known, in which row of what, and whether others than the authors say so."""
    places = (claim["value"].get("where") or claim.get("table"), claim.get("row"))
    where = ", ".join(place for place in places if place)
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


def counted(counts: Sequence[int | None]) -> str:
    """Return the counts of all seeds in words: their mean, and between what they lie where they differ."""
    known = [count for count in counts if count is not None]
    low, high = min(known), max(known)
    return f"{low:,}" if low == high else f"{statistics.fmean(known):,.0f} ({low:,} to {high:,})"


def measured(comparison: Mapping[str, Any]) -> str:
    """Return what a comparison measured in words: baseline and arm."""
    before = f"{spread(comparison['baseline'])} -> " if comparison["baseline"] else ""
    return f"{before}{spread(comparison['measured'])} {comparison['metric'].rpartition('.')[2]}"


def of_examples(result: Mapping[str, Any], comparison: Mapping[str, Any]) -> str:
    """Return what a comparison's count of errors is out of, in words; empty where it counts nothing."""
    total = examples(result["arms"][comparison["arm"]]["quality"])
    return f" of {total:,}" if total and comparison["metric"].endswith(".errors") else ""


def effect(comparison: Mapping[str, Any]) -> str:
    """Return what a gain or a loss comes to in the paper and here, more is better, with its 95 % interval.

    Other claims are figures that stand for themselves: a dash.
    """
    said = comparison["verdict"]
    if said is None or said["says"] not in ("gain", "loss"):
        return "-"
    paper = "" if said["claimed"] is None else f"{said['claimed']:+.3g} claimed, "
    if paper and said["says"] == "loss" and said["claimed"] > 0:
        paper = f"no loss claimed ({said['claimed']:+.3g} printed), "
    noise = "" if said["interval"] is None else " ({:+.3g} to {:+.3g})".format(*said["interval"])
    return f"{paper}{said['effect']:+.3g} here{noise}"


def examples(quality: Mapping[str, Any]) -> int | None:
    """Return of how many examples an arm's errors are counted, where it has both their number and their share."""
    count, share = quality.get("errors"), quality.get("error")
    return round(100 * count["mean"] / share["mean"]) if count and share and share["mean"] else None


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


def answer(result: Mapping[str, Any], comparison: Mapping[str, Any]) -> str:
    """Return a comparison's verdict in words that stand alone: the word, why, and which of its arms collapsed."""
    said, parts = comparison["verdict"], [word(comparison)]
    if said is not None:
        parts = [f"{parts[0]}: {said['why']}"]
        if said["seeds_needed"]:
            parts.append(f"{said['seeds_needed']} seeds would do")
        if "cause" in said:
            parts.append(f"cause: {said['cause']}" if said["cause"] else "cause not tested yet")

    for arm in (comparison["arm"], comparison["baseline_arm"]):
        if arm is not None and (gone := collapse(result["arms"][arm])):
            parts.append(f"{arm} {gone}")
    return "; ".join(parts)


def whose(card: str, claim: Mapping[str, Any]) -> tuple[str, str]:
    """Return the card that a compared claim is of, and its id there: one of another card says whose it is.

    :param card: of the reproduction that compares it.
    """
    other, _, own = claim["id"].rpartition(":")
    return other or card, own


def seeds_of(comparison: Mapping[str, Any]) -> int:
    """Return over how many seeds a comparison's arm was measured; some arms play one where others play three."""
    return len(comparison["measured"]["values"])


def word(comparison: Mapping[str, Any]) -> str:
    """Return a comparison's verdict in one or two words that stand alone."""
    said = comparison["verdict"]
    return "-" if said is None else VERDICTS.get(said["word"], str(said["word"]))


def diverged(result: Mapping[str, Any]) -> dict[str, str]:
    """Return by arm in how many seeds it diverged, and where the first did; such an arm has no figures."""
    return {
        arm: f"diverged in {len(said['seeds'])} of {said['of']} seeds: {said['why']}"
        for arm, said in result.get("diverged", {}).items()
    }


def sends(result: Mapping[str, Any]) -> bool:
    """Tell whether the arms' gradients went from worker to worker."""
    return all(any(figures.get("training", {}).get("sent_bytes", [])) for figures in result["arms"].values())


def ranked(result: Mapping[str, Any]) -> dict[str, str]:
    """Return by figure how alike it ranks the arms as their quality does; nothing where a result ranks nothing."""
    ranks = result.get("figure", {}).get("ranks", {})
    return {
        path.removeprefix("reported.").removeprefix("after."): ", ".join(
            f"{name.capitalize()}'s {COEFFICIENTS[name]} {'-' if value is None else f'{value:.2f}'}"
            for name, value in alike.items()
        )
        for path, alike in ranks.items()
    }
