"""The picture of a stored result, an SVG: its arms beside published points, or its claims beside what was measured."""

from __future__ import annotations

import io
import json
import re
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from condensery.files import write_atomic
from condensery_catalogue.listing import RECALLED
from condensery_catalogue.results import answer, heading, spread
from condensery_catalogue.showing import figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's palette without its yellow, which a white ground swallows."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h")
"""As many as make 77 pairs with the colours before one comes again."""
INK, GREY, LINES = "#222222", "#6e6e6e", "#dddddd"
WIDTH, ROW = 9.0, 0.28
"""Inches."""
SAME_X = 0.05
"""Arms whose x differ by less than this share are drawn one below the other."""
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "condensery",
    "svg.fonttype": "path",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.parse_math": False,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": GREY,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "grid.color": LINES,
    "legend.frameon": False,
    "figure.dpi": 72,
    "figure.facecolor": "white",
    "figure.edgecolor": LINES,
    "savefig.facecolor": "white",
    "savefig.edgecolor": LINES,
}
PUBLISHED = "published (other training, other base)"


@dataclass(frozen=True)
class Point:
    """One thing that a figure shows.

    :param x: summary over the seeds, as ``y``; a published one has no deviation.
    :param style: number of its colour and marker, which a series shares.
    """

    name: str
    kind: Literal["arm", "baseline", "published"]
    x: Mapping[str, Any]
    y: Mapping[str, Any]
    series: str | None = None
    style: int = 0

    @property
    def look(self) -> dict[str, Any]:
        """Colour and marker, as matplotlib takes them; a published point is hollow and grey."""
        marker = MARKERS[self.style % len(MARKERS)]
        if self.kind == "published":
            return {"color": GREY, "marker": marker, "markerfacecolor": "white"}
        if self.kind == "baseline":
            return {"color": INK, "marker": "D"}
        return {"color": COLOURS[self.style % len(COLOURS)], "marker": marker}

    @property
    def height(self) -> str:
        """Its y in words; a published one as the source states it."""
        return f"{self.y['mean']:g}" if self.kind == "published" else spread(self.y)


def fingerprint(result: Mapping[str, Any]) -> str:
    """Return what tells a result from any other; its picture carries it."""
    return f"sha256:{sha256(json.dumps(result, sort_keys=True).encode()).hexdigest()}"


def is_drawn(result: Mapping[str, Any]) -> bool:
    """Tell whether a result has a picture: it says what to draw, or compares a number with a claim."""
    return "figure" in result or bool(_comparable(result))


def save_drawing(result: Mapping[str, Any], path: Path) -> None:
    """Draw a result into an SVG file."""
    text = draw(result)
    write_atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def draw(result: Mapping[str, Any]) -> str:
    """Return a result's picture as SVG: the same for the same result and version of matplotlib.

    Texts are outlines, so that they look alike anywhere; its description says them in words.
    """
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from matplotlib.transforms import Bbox

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        made = Figure(layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1), linewidth=1)
        if "figure" not in result:
            _draw_claims(made, result)
        elif _at_one_x(result):
            _draw_rows(made, result)
        else:
            _draw_points(made, result)
        made.draw_without_rendering()
        made.set_layout_engine("none")
        for axes in made.axes:  # the last digits of the layout's solver differ from run to run
            axes.set_position(Bbox.from_bounds(*(round(edge, 4) for edge in axes.get_position().bounds)))
        metadata = {"Title": heading(result), "Description": describe(result), "Identifier": fingerprint(result)}
        out = io.StringIO()
        made.savefig(out, format="svg", metadata={**metadata, "Date": None, "Creator": None})
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def describe(result: Mapping[str, Any]) -> str:
    """Return in words what the picture shows."""
    if "figure" not in result:
        lanes = [(c["claim"]["id"], lane) for c in _comparable(result) for lane in _lanes(c)]
        return "; ".join(f"{claim}, {lane.name}: {lane.words}" for claim, lane in lanes)
    axes = f"{result['figure']['y_label']} over {result['figure']['x_label']}"
    return "; ".join([axes, *(f"{p.kind} {p.name}: {p.height} at {spread(p.x)}" for p in points(result))])


def points(result: Mapping[str, Any]) -> list[Point]:
    """Return what a result's figure shows, highest first, the published points last."""
    spec = result["figure"]
    series = {arm: name for name, arms in spec["series"].items() for arm in arms}
    styles: dict[str, int] = {}
    made = []
    for arm, figures in result["arms"].items():
        kind: Literal["arm", "baseline"] = "baseline" if arm == spec["baseline_arm"] else "arm"
        style = styles.setdefault(series.get(arm, f"arm {arm}"), len(styles)) if kind == "arm" else 0
        made.append(Point(arm, kind, figures["figure"]["x"], figures["figure"]["y"], series.get(arm), style))
    for style, item in enumerate(spec["published"]):
        at, height = ({"mean": value, "std": None} for value in (item["at"], item["claim"]["value"]["value"]))
        made.append(Point(_whose(item["claim"]), "published", at, height, style=style))
    return sorted(made, key=lambda point: (point.kind == "published", -point.y["mean"]))


def _whose(claim: Mapping[str, Any]) -> str:
    """Return of what a published figure is, and who says so."""
    by = "a third party" if claim.get("by") == "third party" else "the authors"
    recalled = ", recalled, not read" if claim["value"]["source"] == RECALLED else ""
    return f"{', '.join(w for w in (claim.get('setting'), claim['model'], claim['dataset']) if w)}, by {by}{recalled}"


def _at_one_x(result: Mapping[str, Any]) -> bool:
    """Tell whether all arms, less the level line, have almost the same x."""
    x = [point.x["mean"] for point in points(result) if point.kind == "arm"]
    return not x or max(x) - min(x) <= SAME_X * max(map(abs, x))


def _finish(made: Figure, result: Mapping[str, Any], height: float, *more: str) -> None:
    """Add heading and caption, and set the size.

    :param height: of what lies between them, inches.
    """
    seeds = len(result["seeds"])
    over = "one seed, so without deviation" if seeds == 1 else f"mean ± sample standard deviation over {seeds} seeds"
    text = textwrap.fill("; ".join([over, *more]), 140)
    made.supxlabel(text, x=0.012, ha="left", size=8, color=GREY)
    made.suptitle(heading(result), x=0.012, ha="left", weight="bold", size=11)
    made.set_size_inches(WIDTH, height + 1.0)


def _point(axes: Axes, x: Mapping[str, Any], y: Mapping[str, Any], name: str, **look: Any) -> None:
    """Draw one point with what deviations it has; its name is that of its element in the SVG."""
    bars = {"xerr": x["std"], "yerr": y["std"], "elinewidth": 1, "capsize": 2.5}
    drawn = axes.errorbar(x["mean"], y["mean"], **bars, **{"markersize": 6.5, "linestyle": "none", "zorder": 3, **look})
    drawn.lines[0].set_gid(re.sub(r"[^A-Za-z0-9_.-]", "-", name))


def _level_line(axes: Axes, height: Mapping[str, Any], *, upright: bool) -> None:
    """Draw the baseline arm's height across the picture, with a band as wide as its deviation."""
    line, band = (axes.axvline, axes.axvspan) if upright else (axes.axhline, axes.axhspan)
    line(height["mean"], color=INK, linewidth=1, linestyle="--", zorder=1)
    mean, deviation = height["mean"], height["std"] or 0.0
    band(mean - deviation, mean + deviation, color=INK, alpha=0.1, linewidth=0, zorder=0)


def _draw_points(made: Figure, result: Mapping[str, Any]) -> None:
    """Draw y over x; the names stand beside it in the order of their heights, where they can't meet."""
    from matplotlib.lines import Line2D

    axes, spec = made.add_subplot(), result["figure"]
    axes.set(xlabel=spec["x_label"], ylabel=spec["y_label"])
    axes.grid(visible=True)
    entries: dict[str, dict[str, Any]] = {}
    for point in points(result):
        if point.kind == "baseline":
            _level_line(axes, point.y, upright=False)
            name, look = f"{point.name} (baseline)  {point.height}", {"color": INK, "linestyle": "--", "linewidth": 1}
        else:
            _point(axes, point.x, point.y, f"{point.kind}-{point.name}", **point.look)
            joined = "none" if point.series is None else "-"
            name, look = point.series or f"{point.name}  {point.height}", {**point.look, "linestyle": joined}
        if point.kind == "published":
            entries.setdefault(f"{PUBLISHED}:", {"linestyle": "none"})
        entries.setdefault(name, look)
    for name, arms in spec["series"].items():
        ends = sorted((result["arms"][arm]["figure"] for arm in arms), key=lambda ends: ends["x"]["mean"])
        line = [[end[axis]["mean"] for end in ends] for axis in "xy"]
        axes.plot(*line, color=entries[name]["color"], linewidth=1.2, zorder=2)
    names = [textwrap.fill(name, 38) for name in entries]
    handles = [Line2D([], [], markersize=6.5, label=n, **look) for n, look in zip(names, entries.values(), strict=True)]
    made.legend(handles=handles, loc="outside right upper", fontsize=8, labelspacing=0.7)
    _finish(made, result, max(3.6, 0.16 * sum(1.5 + name.count("\n") for name in names) + 0.4))


def _draw_rows(made: Figure, result: Mapping[str, Any]) -> None:
    """Draw one row for each arm, the published points below, and y from left to right: for arms that share their x."""
    axes, spec, found = made.add_subplot(), result["figure"], points(result)
    places: list[float] = []
    labels: list[str] = []
    edge = 0.0
    for point in found:
        published = point.kind == "published"
        if published and places and found[len(places) - 1].kind != "published":
            axes.axhline(edge, color=GREY, linewidth=0.8)
        note = "baseline" if point.kind == "baseline" else point.series
        labels.append(textwrap.fill(f"{point.name} ({note})" if note else point.name, 44))
        height = max(1.0, 0.6 * (1 + labels[-1].count("\n")) + 0.3)
        places.append(edge - height / 2)
        edge -= height
        row = {"mean": places[-1], "std": None}
        look = point.look if point.series or published else replace(point, style=0).look
        _point(axes, point.y, row, f"{point.kind}-{point.name}", **look)
        text = f"{point.height} at {point.x['mean']:g}" if published else point.height
        axes.annotate(text, (1.015, row["mean"]), xycoords=("axes fraction", "data"), va="center", size=8.5)
        if point.kind == "baseline":
            _level_line(axes, point.y, upright=True)
    axes.set_yticks(places, labels)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(edge - 0.1, 0.1)
    axes.set_xlabel(spec["y_label"])
    axes.grid(visible=True)
    at = [point.x["mean"] for point in found if point.kind == "arm"]
    more = [f"the arms' {spec['x_label']}: {' to '.join(dict.fromkeys(f'{end(at):,.2f}' for end in (min, max)))}"]
    grey = [f"grey: {PUBLISHED}"] if spec["published"] else []
    _finish(made, result, 0.3 - ROW * edge, *more, *grey)


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
        paper = "" if self.claim is None else f"  paper {figure(self.claim)}"
        return f"here {spread(self.here)}{paper}"


def _comparable(result: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the comparisons with a claim that is a number."""
    return [c for c in result["comparisons"] if isinstance(c["claim"]["value"]["value"], (int, float))]


def _lanes(comparison: Mapping[str, Any]) -> list[Lane]:
    """Return what is drawn of a comparison: the arm and its baseline, or the gain of one over the other."""
    claim, arm, baseline = comparison["claim"], comparison["arm"], comparison["baseline_arm"]
    if comparison["answers"] == "gain":
        return [Lane(f"{arm} over {baseline}", comparison["gain"], claim["value"])]
    lanes = [Lane(arm, comparison["measured"], claim["value"])]
    if baseline is not None:
        before = claim.get("baseline")
        number = before is not None and isinstance(before["value"], (int, float))
        lanes.append(Lane(f"{baseline} (baseline)", comparison["baseline"], before if number else None))
    return lanes


def _draw_claims(made: Figure, result: Mapping[str, Any]) -> None:
    """Draw a panel for each claim, as each has its own unit: the paper's figure joined to the one measured here."""
    found = _comparable(result)
    heights = [0.9 + ROW * len(_lanes(c)) for c in found]
    for comparison, axes in zip(
        found, made.subplots(len(found), squeeze=False, height_ratios=heights)[:, 0], strict=True
    ):
        claim, lanes = comparison["claim"], _lanes(comparison)
        for place, lane in enumerate(lanes):
            row = {"mean": -place, "std": None}
            if lane.claim is not None:
                at = {"mean": lane.claim["value"], "std": None}
                axes.plot([at["mean"], lane.here["mean"]], [-place, -place], color=GREY, linewidth=1, zorder=1)
                hollow = {"color": GREY, "marker": "D", "markerfacecolor": "white", "markersize": 8, "zorder": 2}
                _point(axes, at, row, f"claim-{claim['id']}-{place}", **hollow)
            _point(axes, lane.here, row, f"arm-{claim['id']}-{lane.name}", color=COLOURS[place], marker=MARKERS[place])
            axes.annotate(lane.words, (1.015, -place), xycoords=("axes fraction", "data"), va="center", size=8.5)
        axes.set_yticks([-place for place in range(len(lanes))], [lane.name for lane in lanes])
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(-len(lanes) + 0.4, 0.6)
        axes.margins(x=0.08)
        axes.grid(visible=True, axis="x")
        verdict = f": {answer(comparison)}" if comparison["verdict"] else ""
        axes.set_title(f"{claim['id']}{verdict}", loc="left", size=9, weight="bold")
        axes.set_xlabel(textwrap.fill(f"{claim['metric']} ({claim['unit']}), {claim['model']}, {claim['dataset']}", 80))
    _finish(made, result, sum(heights), "hollow grey: the paper says")
