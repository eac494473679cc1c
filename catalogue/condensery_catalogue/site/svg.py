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

from condensery_catalogue.points import Lane, alike
from condensery_catalogue.wording import spread

Summary = Mapping[str, Any]
"""``mean``, ``std`` (``None`` of one seed) and ``values`` of a figure over the seeds."""
Line = tuple[Any, Any, Any, Any]
"""A straight line: x and y of one end, then of the other."""
Words = tuple[Any, Any, str]
"""A text at x and y."""
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
    drawn = [_lines("axis", [(8, height - 15, 212, height - 15)])]
    drawn.append(_texts("middle", [(x(tick), height - 3, _short(tick)) for tick in x.ticks(3)]))

    for row, lane in enumerate(lanes):
        y = LANE * row + LANE // 2
        here = lane.here["mean"]
        drawn.append(_lines("apart", [(x(said), y, x(here), y) for said in _claimed(lane)]))
        drawn.append(_lines("noise", _noise(lane.here, x, y)))
        drawn += [f'<circle class="paper" cx="{x(said)}" cy="{y}" r="5"/>' for said in _claimed(lane)]
        drawn.append(f'<circle class="{"here" if row == 0 else "base"}" cx="{x(here)}" cy="{y}" r="4"/>')
    words = "; ".join(f"{lane.name}: {lane.words}" for lane in lanes)
    return _svg("dumbbell", 220, height, f'role="img" aria-label="{escape(words)}"', drawn)


def chart(shown: Curve) -> Markup:
    """Return arms over what they share; as rows where all stand at one place, and over it only noise could be seen."""
    return rows(shown) if alike(dot.x["mean"] for dot in shown.dots) else curve(shown)


def curve(shown: Curve) -> Markup:
    """Return arms as dots that are links, and nets without compression as lines across."""
    everything = [*shown.dots, *shown.published]
    x = Axis.over([end for dot in everything for end in _ends(dot.x)], LEFT, WIDTH - 12)
    heights = [*(dot.y for dot in everything), *shown.lines.values()]
    y = Axis.over([end for height in heights for end in _ends(height)], HEIGHT - BOTTOM, 8, least=least(shown.y_label))

    drawn = [
        _lines("grid", [(LEFT, y(tick), WIDTH, y(tick)) for tick in y.ticks(5)]),
        _texts("end", [(LEFT - 6, _below(y(tick), 4), _short(tick)) for tick in y.ticks(5)]),
        _texts("middle", [(x(tick), HEIGHT - BOTTOM + 16, _short(tick)) for tick in x.ticks(7)]),
        _texts("end", [(WIDTH - 12, HEIGHT - 3, shown.x_label)]),
        _texts("start", [(LEFT + 4, 14, shown.y_label)]),
    ]

    levels = {name: y(height["mean"]) for name, height in shown.lines.items()}
    drawn.append(_lines("dense", [(LEFT, level, WIDTH, level) for level in levels.values()]))
    drawn.append(_texts("end", [(WIDTH - 12, _below(level, -4), name) for name, level in levels.items()]))
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


def rows(shown: Curve) -> Markup:
    """Return one row for each arm, best above, and then for each published figure, for arms which share their x.

    They stand from left to right by what the curve would have upwards; the x that they share is said below.
    """
    nets = [Dot(name, False, height, height, "") for name, height in shown.lines.items()]
    arms = sorted([*nets, *shown.dots], key=lambda dot: -dot.y["mean"])
    found = [*arms, *shown.published]

    left = min(WIDTH // 2, 16 + LETTER * max(len(dot.name) for dot in found))
    ends = [end for dot in found for end in _ends(dot.y)]
    x = Axis.over(ends, left, WIDTH - ROOM, least=least(shown.y_label))
    height = LANE * len(found) + BOTTOM
    middles = [LANE * row + LANE // 2 for row in range(len(found))]
    said = [spread(dot.y) for dot in arms] + [f"{dot.y['mean']:g}" for dot in shown.published]
    kinds = ["here" if dot.own else "base" for dot in arms] + ["paper"] * len(shown.published)

    drawn = [
        _lines("grid", [(x(tick), 0, x(tick), height - BOTTOM) for tick in x.ticks(5)]),
        _texts("middle", [(x(tick), height - BOTTOM + 14, _short(tick)) for tick in x.ticks(5)]),
        _texts("end", [(WIDTH - ROOM, height - 4, f"{shown.y_label}{_shared(shown)}")]),
        _texts("end", [(left - 8, y + 4, _fitting(dot.name, left)) for dot, y in zip(found, middles, strict=True)]),
        _texts("start", [(WIDTH - ROOM + 8, y + 4, words) for words, y in zip(said, middles, strict=True)]),
        _lines("noise", [bar for dot, y in zip(found, middles, strict=True) for bar in _noise(dot.y, x, y)]),
    ]
    for dot, kind, y in zip(found, kinds, middles, strict=True):
        circle = f'<circle class="{kind}" cx="{x(dot.y["mean"])}" cy="{y}" r="4.5"/>'
        drawn.append(_link("own", dot, circle) if dot.own else circle)
    words = escape("; ".join(f"{dot.name}: {figure}" for dot, figure in zip(found, said, strict=True)))
    return _svg("rows", WIDTH, height, f'role="group" aria-label="{words}"', drawn)


def least(label: str) -> float:
    """Return the least range that an axis shows: two points of a percentage."""
    return 2.0 if "(%)" in label else 0.0


# ---------------------------------------------------------------- what they are drawn with


def _dot(dot: Dot, kind: str, x: Axis, y: Axis) -> str:
    """Return an arm with its noise both ways, as a link."""
    at = (x(dot.x["mean"]), y(dot.y["mean"]))
    noise = _lines("noise", [*_noise(dot.x, x, at[1]), *_noise(dot.y, y, at[0], upright=True)])
    return _link(kind, dot, f'{noise}<circle cx="{at[0]}" cy="{at[1]}" r="5"/>')


def _link(kind: str, dot: Dot, drawn: str) -> str:
    """Return what is drawn of an arm as a link that says in words where it stands."""
    words = escape(f"{dot.name}: {spread(dot.y)} at {spread(dot.x)}")
    return f'<a class="{kind}" href="{escape(dot.href)}"><title>{words}</title>{drawn}</a>'


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
                drawn.append(_texts(anchor, [(round(at, 1), round(base, 1), name)]))
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


def _noise(summary: Summary, axis: Axis, at: Any, *, upright: bool = False) -> list[Line]:
    """Return a bar from mean - deviation to mean + deviation; none where one seed tells none."""
    low, high = (axis(end) for end in _ends(summary))
    if low == high:
        return []
    return [(at, low, at, high) if upright else (low, at, high, at)]


def _ends(summary: Summary) -> tuple[float, float]:
    deviation = summary["std"] or 0.0
    return summary["mean"] - deviation, summary["mean"] + deviation


def _shared(shown: Curve) -> str:
    """Return in words where the dots stand, which hardly differ; nothing where there are none."""
    if not shown.dots:
        return ""
    ends = (find(dot.x["mean"] for dot in shown.dots) for find in (min, max))
    return f" at {shown.x_label}: {' to '.join(dict.fromkeys(f'{end:.3g}' for end in ends))}"


def _claimed(lane: Lane) -> list[float]:
    return [] if lane.claim is None else [lane.claim["value"]]


def _short(value: float) -> str:
    return f"{value:.6g}"


def _below(pixel: str, by: int) -> str:
    """Return a pixel that lies further down, to a tenth."""
    return f"{float(pixel) + by:.1f}".removesuffix(".0")


def _lines(kind: str, lines: Iterable[Line]) -> str:
    """Return straight lines of one kind as one path, along an axis or slanted."""
    drawn = ""
    for left, top, right, bottom in lines:
        end = f"H{right}" if top == bottom else f"V{bottom}" if left == right else f"L{right} {bottom}"
        drawn += f"M{left} {top}{end}"
    return f'<path class="{kind}" d="{drawn}"/>' if drawn else ""


def _texts(anchor: str, texts: Iterable[Words]) -> str:
    """Return texts of which each starts, ends or has its middle at its place."""
    drawn = [f'<text x="{x}" y="{y}">{escape(words)}</text>' for x, y, words in texts]
    return f'<g text-anchor="{anchor}">{"".join(drawn)}</g>' if drawn else ""


def _svg(kind: str, width: int, height: int, role: str, drawn: Iterable[str]) -> Markup:
    return Markup(f'<svg class="{kind}" viewBox="0 0 {width} {height}" {role}>{"".join(drawn)}</svg>')
