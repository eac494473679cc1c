"""Small pictures in the page itself, as SVG: a claim beside what was measured, and accuracy over compression.

Colours and fonts are those of the page, by class, so that a dark page has dark pictures. What a picture shows stands
in words beside it, or in what it links to.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup, escape

from condensery_catalogue.points import Lane, Point
from condensery_catalogue.wording import spread

Summary = Mapping[str, Any]
"""``mean``, ``std`` (``None`` of one seed) and ``values`` of a figure over the seeds."""
STEPS = (1, 2, 5, 10)
"""What ticks lie apart, times a power of ten."""
WIDTH, HEIGHT, LEFT, BOTTOM = 640, 260, 52, 34
"""Pixels of a curve, and of its margins with the numbers of its axes."""
LANE, ROOM = 22, 120
"""Pixels of a row of a dumbbell, and those that a row's figure takes beside it."""
LETTER = 7
"""Pixels that a letter takes, with some room."""


@dataclass(frozen=True)
class Axis:
    """An axis, from the pixel ``start`` at ``low`` to ``end`` at ``high``."""

    low: float
    high: float
    start: float
    end: float

    @classmethod
    def over(cls, values: Iterable[float], start: float, end: float, *, least: float = 0.0) -> Axis:
        """Return an axis on which all values have room.

        :param least: range that the axis has at least, so that noise doesn't look like a cliff.
        """
        found = list(values)
        low, high = min(found), max(found)
        more = max(0.0, least - (high - low)) / 2
        low, high = low - more, high + more
        room = 0.08 * (high - low) or 0.05 * abs(high) or 1.0
        return cls(low - room, high + room, start, end)

    def __call__(self, value: float) -> str:
        """Return the pixel of a value, to a tenth."""
        share = (value - self.low) / (self.high - self.low)
        return f"{self.start + share * (self.end - self.start):.1f}".removesuffix(".0")

    def ticks(self, most: int) -> list[float]:
        """Return round numbers on the axis, evenly spaced, ``most`` at most."""
        least = (self.high - self.low) / most
        power = 10.0 ** math.floor(math.log10(least))
        step = next(step * power for step in STEPS if step * power >= least * (1 - 1e-9))
        first, last = math.ceil(self.low / step), math.floor(self.high / step)
        return [number * step for number in range(first, last + 1)]


@dataclass(frozen=True)
class Dot:
    """One arm of a curve.

    :param own: it is what the picture is about.
    :param x: summary over the seeds, with ``mean`` and ``std``; so is ``y``.
    :param href: where more is said of it.
    """

    name: str
    own: bool
    x: Summary
    y: Summary
    href: str


@dataclass(frozen=True)
class Curve:
    """The arms of one result on one net, as a picture.

    :param lines: quality of the nets that nothing compresses, by the arm's name.
    :param published: figures of papers, which are named beside the picture.
    :param joined: the dots of each series, which a line joins.
    """

    x_label: str
    y_label: str
    dots: Sequence[Dot]
    lines: Mapping[str, Summary]
    published: Sequence[Dot] = ()
    joined: Sequence[Sequence[Dot]] = ()


def dumbbell(lanes: Sequence[Lane]) -> Markup:
    """Return a claim's figures, hollow, joined to those measured here, on one scale: the arm above its baseline."""
    values = [value for lane in lanes for value in (*_ends(lane.here), *_claimed(lane))]
    x = Axis.over(values, 8, 212)
    height = LANE * len(lanes) + 16
    drawn = [_line("axis", 8, height - 15, 212, height - 15)]
    for tick in x.ticks(3):
        drawn.append(_text(x(tick), height - 3, _short(tick), "middle"))

    for row, lane in enumerate(lanes):
        y = LANE * row + LANE // 2
        here = lane.here["mean"]
        drawn += [_line("apart", x(said), y, x(here), y) for said in _claimed(lane)]
        drawn.append(_noise(lane.here, x, y))
        drawn += [f'<circle class="paper" cx="{x(said)}" cy="{y}" r="5"/>' for said in _claimed(lane)]
        drawn.append(f'<circle class="{"here" if row == 0 else "base"}" cx="{x(here)}" cy="{y}" r="4"/>')
    words = "; ".join(f"{lane.name}: {lane.words}" for lane in lanes)
    return _svg("dumbbell", 220, height, f'role="img" aria-label="{escape(words)}"', drawn)


def curve(shown: Curve) -> Markup:
    """Return arms as dots that are links, and nets without compression as lines across."""
    everything = [*shown.dots, *shown.published]
    x = Axis.over([end for dot in everything for end in _ends(dot.x)], LEFT, WIDTH - 12)
    heights = [*(dot.y for dot in everything), *shown.lines.values()]
    y = Axis.over([end for height in heights for end in _ends(height)], HEIGHT - BOTTOM, 8, least=least(shown.y_label))

    drawn = []
    for tick in y.ticks(5):
        drawn += [
            _line("grid", LEFT, y(tick), WIDTH, y(tick)),
            _text(LEFT - 6, float(y(tick)) + 4, _short(tick), "end"),
        ]
    for tick in x.ticks(7):
        drawn.append(_text(x(tick), HEIGHT - BOTTOM + 16, _short(tick), "middle"))
    drawn += [_text(WIDTH - 12, HEIGHT - 3, shown.x_label, "end"), _text(LEFT + 4, 14, shown.y_label, "start")]

    for name, height in shown.lines.items():
        drawn.append(_line("dense", LEFT, y(height["mean"]), WIDTH, y(height["mean"])))
        drawn.append(_text(WIDTH - 12, float(y(height["mean"])) - 4, name, "end"))
    for series in shown.joined:
        ends = sorted((dot.x["mean"], dot.y["mean"]) for dot in series)
        places = " ".join(f"{x(over)},{y(height)}" for over, height in ends)
        drawn.append(f'<polyline points="{places}"/>')

    # What the picture is about lies above the others.
    drawn += [_dot(dot, "paper", x, y) for dot in shown.published]
    drawn.append(_others([dot for dot in shown.dots if not dot.own], x, y))
    own = sorted((dot for dot in shown.dots if dot.own), key=lambda dot: dot.name)
    drawn += [_dot(dot, "own", x, y) for dot in own]
    drawn += _names([(dot.name, float(x(dot.x["mean"])), float(y(dot.y["mean"]))) for dot in shown.dots if dot.own])
    words = escape(f"{shown.y_label} over {shown.x_label}")
    return _svg("curve", WIDTH, HEIGHT, f'role="group" aria-label="{words}"', drawn)


def rows(found: Sequence[Point], label: str) -> Markup:
    """Return one row for each arm and published figure, from left to right by what the others are compared in.

    :param label: of that; for arms which share what they would otherwise stand over.
    """
    names = [point.label for point in found]
    left = min(WIDTH // 2, 16 + LETTER * max(map(len, names)))
    x = Axis.over([end for p in found for end in _ends(p.y)], left, WIDTH - ROOM, least=least(label))
    height = LANE * len(found) + BOTTOM

    drawn = []
    for tick in x.ticks(5):
        drawn.append(_line("grid", x(tick), 0, x(tick), height - BOTTOM))
        drawn.append(_text(x(tick), height - BOTTOM + 14, _short(tick), "middle"))
    drawn.append(_text(WIDTH - ROOM, height - 4, label, "end"))

    for row, (name, point) in enumerate(zip(names, found, strict=True)):
        y = LANE * row + LANE // 2
        kind = {"arm": "here", "baseline": "base", "published": "paper"}[point.kind]
        drawn += [_text(left - 8, y + 4, _fitting(name, left), "end"), _noise(point.y, x, y)]
        drawn.append(f'<circle class="{kind}" cx="{x(point.y["mean"])}" cy="{y}" r="4.5"/>')
        drawn.append(_text(WIDTH - ROOM + 8, y + 4, point.height, "start"))
    words = escape("; ".join(f"{name}: {point.height}" for name, point in zip(names, found, strict=True)))
    return _svg("rows", WIDTH, height, f'role="img" aria-label="{words}"', drawn)


def least(label: str) -> float:
    """Return the least range that an axis shows: two points of a percentage."""
    return 2.0 if "(%)" in label else 0.0


# ---------------------------------------------------------------- what they are drawn with


def _dot(dot: Dot, kind: str, x: Axis, y: Axis) -> str:
    """Return an arm with its noise both ways, as a link."""
    at = (x(dot.x["mean"]), y(dot.y["mean"]))
    words = escape(f"{dot.name}: {spread(dot.y)} at {spread(dot.x)}")
    marks = [_noise(dot.x, x, at[1]), _noise(dot.y, y, at[0], upright=True)]
    marks.append(f'<circle cx="{at[0]}" cy="{at[1]}" r="5"/>')
    inner = "".join(marks)
    return f'<a class="{kind}" href="{escape(dot.href)}"><title>{words}</title>{inner}</a>'


def _others(dots: Iterable[Dot], x: Axis, y: Axis) -> str:
    """Return the arms that the picture isn't about, as one path of round points; the result's page names them."""
    points = "".join(f"M{x(dot.x['mean'])} {y(dot.y['mean'])}h0" for dot in dots)
    return f'<path class="other" d="{points}"/>' if points else ""


def _names(dots: Sequence[tuple[str, float, float]]) -> list[str]:
    """Return names beside their dots, or above or below; one without room is left to its dot's own words."""
    # Boxes that nothing may lie on: the dots, and then the names that have found a place.
    taken = [(x - 6, y - 6, x + 6, y + 6) for _, x, y in dots]
    drawn = []

    for name, x, y in dots:
        wide = LETTER * len(name)

        # To the right first, then to the left, above and below.
        for anchor, start, base in (
            ("start", x + 9, y + 4),
            ("end", x - 9 - wide, y + 4),
            ("middle", x - wide / 2, y - 9),
            ("middle", x - wide / 2, y + 18),
        ):
            box = (start, base - 10, start + wide, base + 3)
            inside = box[0] >= LEFT and box[2] <= WIDTH and box[3] <= HEIGHT - BOTTOM
            if inside and not any(_meet(box, other) for other in taken):
                at = {"start": start, "end": start + wide, "middle": x}[anchor]
                drawn.append(_text(round(at, 1), round(base, 1), name, anchor))
                taken.append(box)
                break
    return drawn


def _meet(one: Sequence[float], two: Sequence[float]) -> bool:
    """Tell whether two boxes, each left, top, right and bottom, share a place."""
    return one[0] < two[2] and two[0] < one[2] and one[1] < two[3] and two[1] < one[3]


def _fitting(name: str, wide: float) -> str:
    """Return as much of a name as has room; the whole stands in the picture's words."""
    most = int((wide - 8) / LETTER)
    return name if len(name) <= most else f"{name[: most - 1]}…"


def _noise(summary: Summary, axis: Axis, at: Any, *, upright: bool = False) -> str:
    """Return a bar from mean - deviation to mean + deviation; nothing where one seed tells none."""
    low, high = (axis(end) for end in _ends(summary))
    if low == high:
        return ""
    return _line("noise", at, low, at, high) if upright else _line("noise", low, at, high, at)


def _ends(summary: Summary) -> tuple[float, float]:
    deviation = summary["std"] or 0.0
    return summary["mean"] - deviation, summary["mean"] + deviation


def _claimed(lane: Lane) -> list[float]:
    return [] if lane.claim is None else [lane.claim["value"]]


def _short(value: float) -> str:
    return f"{value:.6g}"


def _line(kind: str, *ends: Any) -> str:
    return '<line class="{}" x1="{}" y1="{}" x2="{}" y2="{}"/>'.format(kind, *ends)


def _text(x: Any, y: Any, words: str, anchor: str) -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}">{escape(words)}</text>'


def _svg(kind: str, width: int, height: int, role: str, drawn: Iterable[str]) -> Markup:
    return Markup(f'<svg class="{kind}" viewBox="0 0 {width} {height}" {role}>{"".join(drawn)}</svg>')
