"""What the picture of a result shows, as plain data: points of arms and papers, or lanes of claims and measurements."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from condensery_catalogue.wording import RECALLED, collapse, figure, spread

SAME_X = 0.05
"""Arms whose x differ by less than this share count as being at one x."""
Kind = Literal["arm", "baseline", "published"]


@dataclass(frozen=True)
class Point:
    """One thing that a figure shows.

    :param name: of the arm, or whose figure it is.
    :param x: summary over the seeds, as ``y``; a published one has no deviation.
    :param series: that a line joins it to, if any.
    :param style: number of its colour and marker, which a series shares.
    :param collapsed: in how many seeds the nets collapsed, in words.
    """

    name: str
    kind: Kind
    x: Mapping[str, Any]
    y: Mapping[str, Any]
    series: str | None = None
    style: int = 0
    collapsed: str = ""

    @property
    def label(self) -> str:
        """Its name as it is shown."""
        return f"{self.name}, {self.collapsed}" if self.collapsed else self.name

    @property
    def height(self) -> str:
        """Its y in words; a published one as the source states it."""
        return f"{self.y['mean']:g}" if self.kind == "published" else spread(self.y)


@dataclass(frozen=True)
class Lane:
    """One measured figure, and what the paper has in its place.

    :param claim: a card's figure, ``value`` and ``source``; ``None`` where the paper doesn't give it.
    """

    name: str
    here: Mapping[str, Any]
    claim: Mapping[str, Any] | None

    @property
    def words(self) -> str:
        """Both figures."""
        paper = "" if self.claim is None else f", paper {figure(self.claim)}"
        return f"here {spread(self.here)}{paper}"


def is_drawn(result: Mapping[str, Any]) -> bool:
    """Tell whether a result has a picture: it says what to draw, or compares a number with a claim."""
    return "figure" in result or bool(comparable(result))


def describe(result: Mapping[str, Any]) -> str:
    """Return in words what the picture shows."""
    if "figure" not in result:
        found = [(c["claim"]["id"], lane) for c in comparable(result) for lane in lanes(c)]
        return "; ".join(f"{claim}, {lane.name}: {lane.words}" for claim, lane in found)
    axes = f"{result['figure']['y_label']} over {result['figure']['x_label']}"
    return "; ".join([axes, *(f"{p.kind} {p.label}: {p.height} at {spread(p.x)}" for p in points(result))])


def points(result: Mapping[str, Any]) -> list[Point]:
    """Return what a result's figure shows, highest first, the published points last."""
    spec = result["figure"]
    series = {arm: name for name, arms in spec["series"].items() for arm in arms}
    made = []

    # Arms of one series share a style; every other arm has its own.
    styles: dict[str, int] = {}
    for arm, figures in result["arms"].items():
        kind: Kind = "baseline" if arm == spec["baseline_arm"] else "arm"
        style = styles.setdefault(series.get(arm, f"arm {arm}"), len(styles)) if kind == "arm" else 0
        x, y = figures["figure"]["x"], figures["figure"]["y"]
        made.append(Point(arm, kind, x, y, series.get(arm), style, collapse(figures)))

    for style, item in enumerate(spec["published"]):
        claim = item["claim"]
        x, y = ({"mean": value, "std": None} for value in (item["at"], claim["value"]["value"]))
        made.append(Point(_whose(claim), "published", x, y, style=style))
    return sorted(made, key=lambda point: (point.kind == "published", -point.y["mean"]))


def _whose(claim: Mapping[str, Any]) -> str:
    """Return of what a published figure is, and who says so."""
    of = ", ".join(word for word in (claim.get("setting"), claim["model"], claim["dataset"]) if word)
    by = "a third party" if claim.get("by") == "third party" else "the authors"
    recalled = ", recalled, not read" if claim["value"]["source"] == RECALLED else ""
    return f"{of}, by {by}{recalled}"


def at_one_x(result: Mapping[str, Any]) -> bool:
    """Tell whether all arms, less the baseline, have almost the same x."""
    return alike(point.x["mean"] for point in points(result) if point.kind == "arm")


def alike(places: Iterable[float]) -> bool:
    """Tell whether numbers hardly differ: over them nothing can be drawn but noise."""
    found = list(places)
    return not found or max(found) - min(found) <= SAME_X * max(map(abs, found))


def comparable(result: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the comparisons with a claim that is a number."""
    return [c for c in result["comparisons"] if isinstance(c["claim"]["value"]["value"], (int, float))]


def lanes(comparison: Mapping[str, Any]) -> list[Lane]:
    """Return what is drawn of a comparison: the arm and its baseline, or, where only this is claimed, the effect."""
    claim, arm, baseline = comparison["claim"], comparison["arm"], comparison["baseline_arm"]
    said = comparison["verdict"]
    if said is not None and said["says"] in ("gain", "loss") and claim.get("baseline") is None:
        here = {"mean": said["effect"] if said["says"] == "gain" else -said["effect"], "std": None}
        return [Lane(f"{arm} over {baseline}", here, claim["value"])]

    found = [Lane(arm, comparison["measured"], claim["value"])]
    if baseline is not None:
        before = claim.get("baseline")
        number = before is not None and isinstance(before["value"], (int, float))
        found.append(Lane(f"{baseline} (baseline)", comparison["baseline"], before if number else None))
    return found
