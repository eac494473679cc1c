"""The picture on the page of a stored result: its arms as its figure has them, or claims beside what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from condensery_catalogue.points import Point, comparable, is_drawn, lanes, points
from condensery_catalogue.site.svg import Curve, Dot, chart, dumbbell

NOTE = Markup('<figcaption class="note">{}</figcaption>')
SAID = "Hollow: the paper's figure. Filled: ours with its deviation; above the arm, below its baseline."
PUBLISHED = "Hollow: published, with other training, from another base."


def picture(result: Mapping[str, Any]) -> Markup:
    """Return a result's picture with what has to be said of it; empty where there is nothing to draw."""
    if not is_drawn(result):
        return Markup()
    if "figure" not in result:
        shown = [(comparison["claim"]["id"], dumbbell(lanes(comparison))) for comparison in comparable(result)]
        drawn = Markup("\n").join(Markup("<p><code>{}</code>{}</p>").format(*each) for each in shown)
        return Markup('<figure class="claims">{}{}</figure>').format(drawn, NOTE.format(SAID))

    found = points(result)
    drawn = chart(_over(result, found))
    published = [f"{p.height} at {p.x['mean']:g}: {p.label}" for p in found if p.kind == "published"]
    caption = NOTE.format(f"{PUBLISHED} {'; '.join(published)}.") if published else ""
    return Markup('<figure class="picture">{}{}</figure>').format(drawn, caption)


def _over(result: Mapping[str, Any], found: list[Point]) -> Curve:
    """Return a figure's points as a curve, all of whose arms are what it is about."""
    spec = result["figure"]
    published = [point for point in found if point.kind == "published"]
    dots = {point.name: Dot(point.label, True, point.x, point.y, "#arms") for point in found if point.kind == "arm"}
    return Curve(
        x_label=spec["x_label"],
        y_label=spec["y_label"],
        dots=list(dots.values()),
        lines={point.label: point.y for point in found if point.kind == "baseline"},
        published=[Dot(point.label, False, point.x, point.y, "#claims") for point in published],
        joined=[[dots[arm] for arm in arms] for arms in spec["series"].values()],
    )
