"""The picture of a stored result, an SVG: its arms beside published points, or its claims beside what was measured."""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from condensery_catalogue.generated import write_text
from condensery_catalogue.points import Lane, Point, at_one_x, comparable, describe, lanes, points
from condensery_catalogue.wording import answer, heading

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's palette without its yellow, which a white ground swallows."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h")
"""As many as make 77 pairs with the colours before one comes again."""
INK, GREY, LINES = "#222222", "#6e6e6e", "#dddddd"
WIDTH, ROW, LINE = 9.0, 0.28, 0.17
"""Inches."""
MARGIN = 2.0
"""Points that an axis of a percentage may show below 0 and above 100, for half of a mark."""
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "condensery",
    # Texts stay texts: small, searchable, and in the reader's own font. The layout is made with DejaVu Sans, which
    # matplotlib brings and which is wider than most, so another sans-serif font fits in its place.
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
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


def save_drawing(result: Mapping[str, Any], path: Path) -> None:
    """Draw a result into an SVG file."""
    write_text(path, draw(result))


def draw(result: Mapping[str, Any]) -> str:
    """Return a result's picture as SVG: the same for the same result and version of matplotlib.

    Its description says in words what it shows.
    """
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from matplotlib.transforms import Bbox

    # A user's own settings of matplotlib change nothing.
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        made = Figure(layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1), linewidth=1)
        if "figure" not in result:
            draw_claims(made, result)
        elif at_one_x(result):
            draw_rows(made, result)
        else:
            draw_points(made, result)

        # The last digits of the layout's solver differ from run to run.
        made.draw_without_rendering()
        made.set_layout_engine("none")
        for axes in made.axes:
            axes.set_position(Bbox.from_bounds(*(round(edge, 4) for edge in axes.get_position().bounds)))

        out = io.StringIO()
        words = {"Title": heading(result), "Description": describe(result)}
        made.savefig(out, format="svg", metadata={**words, "Date": None, "Creator": None})
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


# ---------------------------------------------------------------- the three kinds of picture


def draw_points(made: Figure, result: Mapping[str, Any]) -> None:
    """Draw y over x; the names stand beside it in the order of their heights, where they can't meet."""
    from matplotlib.lines import Line2D

    axes, spec = made.add_subplot(), result["figure"]
    axes.set(xlabel=spec["x_label"], ylabel=spec["y_label"])
    axes.grid(visible=True)

    # The look of each name in the legend; a series has one name for all its points.
    entries: dict[str, dict[str, Any]] = {}
    for point in points(result):
        if point.kind == "baseline":
            _level_line(axes, point.y, upright=False)
            name, entry = f"{point.label} (baseline): {point.height}", {"color": INK, "linestyle": "--", "linewidth": 1}
        else:
            look = look_of(point)
            _mark(axes, point.x, point.y, f"{point.kind}-{point.name}", **look)
            name = point.series or f"{point.label}: {point.height}"
            entry = {**look, "linestyle": "none" if point.series is None else "-"}
            if point.series and point.collapsed:
                # The legend names the series alone, so the point says it by itself.
                at = (point.x["mean"], point.y["mean"])
                axes.annotate(point.collapsed, at, (6, 6), textcoords="offset points", size=8)
        if point.kind == "published":
            entries.setdefault(f"{PUBLISHED}:", {"linestyle": "none"})
        entries.setdefault(name, entry)

    for name, arms in spec["series"].items():
        ends = sorted((result["arms"][arm]["figure"] for arm in arms), key=lambda end: end["x"]["mean"])
        line = [[end[axis]["mean"] for end in ends] for axis in "xy"]
        axes.plot(*line, color=entries[name]["color"], linewidth=1.2, zorder=2)

    names = [textwrap.fill(name, 38) for name in entries]
    handles = [Line2D([], [], markersize=6.5, label=n, **look) for n, look in zip(names, entries.values(), strict=True)]
    _steady(axes, "y")
    made.legend(handles=handles, loc="outside right upper", fontsize=8, labelspacing=0.7)
    _finish(made, result, max(3.6, 0.16 * sum(1.5 + name.count("\n") for name in names) + 0.4))


def draw_rows(made: Figure, result: Mapping[str, Any]) -> None:
    """Draw one row for each arm, the published points below, and y from left to right: for arms that share their x."""
    axes, spec, found = made.add_subplot(), result["figure"], points(result)
    axes.set_xlabel(spec["y_label"])
    places: list[float] = []
    labels: list[str] = []
    edge = 0.0
    for i, point in enumerate(found):
        published = point.kind == "published"
        if published and i and found[i - 1].kind != "published":
            axes.axhline(edge, color=GREY, linewidth=0.8)

        # A row is as high as its name has lines; going down, y falls.
        note = "baseline" if point.kind == "baseline" else point.series
        labels.append(textwrap.fill(f"{point.label} ({note})" if note else point.label, 44))
        height = max(1.0, 0.6 * (1 + labels[-1].count("\n")) + 0.3)
        places.append(edge - height / 2)
        edge -= height

        # Names stand at the rows, so only a series and the published points need looks of their own.
        look = look_of(point if point.series or published else replace(point, style=0))
        _mark(axes, point.y, _exactly(places[-1]), f"{point.kind}-{point.name}", **look)
        _say_beside(axes, places[-1], f"{point.height} at {point.x['mean']:g}" if published else point.height)
        if point.kind == "baseline":
            _level_line(axes, point.y, upright=True)

    _name_rows(axes, places, labels)
    axes.set_ylim(edge - 0.1, 0.1)
    _steady(axes, "x")
    axes.grid(visible=True)

    at = [point.x["mean"] for point in found if point.kind == "arm"]
    caption = [f"the arms' {spec['x_label']}: {' to '.join(dict.fromkeys(f'{end(at):,.2f}' for end in (min, max)))}"]
    if spec["published"]:
        caption.append(f"grey: {PUBLISHED}")
    _finish(made, result, 0.3 - ROW * edge, *caption)


def draw_claims(made: Figure, result: Mapping[str, Any]) -> None:
    """Draw a panel for each claim, as each has its own unit: the paper's figure joined to the one measured here."""
    found = comparable(result)
    titles = [_title(result, comparison) for comparison in found]
    heights = [
        0.9 + ROW * len(lanes(comparison)) + LINE * title.count("\n")
        for comparison, title in zip(found, titles, strict=True)
    ]
    panels = made.subplots(len(found), squeeze=False, height_ratios=heights)[:, 0]
    for comparison, title, axes in zip(found, titles, panels, strict=True):
        claim, shown = comparison["claim"], lanes(comparison)
        axes.set_xlabel(textwrap.fill(f"{claim['metric']} ({claim['unit']}), {claim['model']}, {claim['dataset']}", 80))
        for place, lane in enumerate(shown):
            _draw_lane(axes, place, lane, claim["id"])

        _name_rows(axes, [-place for place in range(len(shown))], [lane.name for lane in shown])
        axes.set_ylim(-len(shown) + 0.4, 0.6)
        axes.margins(x=0.08)
        axes.grid(visible=True, axis="x")
        axes.set_title(title, loc="left", size=9, weight="bold")
        _steady(axes, "x")
    _finish(made, result, sum(heights), "hollow grey: the paper says")


def _title(result: Mapping[str, Any], comparison: Mapping[str, Any]) -> str:
    """Return the claim and its verdict, in as many lines as they need: a cause may be a long sentence."""
    verdict = f": {answer(result, comparison)}" if comparison["verdict"] else ""
    return textwrap.fill(f"{comparison['claim']['id']}{verdict}", 84)


def _draw_lane(axes: Axes, place: int, lane: Lane, claim: str) -> None:
    """Draw one measured figure, and the paper's joined to it; ``place`` counts the lanes from above."""
    row = _exactly(-place)
    if lane.claim is not None:
        said = lane.claim["value"]
        axes.plot([said, lane.here["mean"]], [-place, -place], color=GREY, linewidth=1, zorder=1)
        hollow = {"color": GREY, "marker": "D", "markerfacecolor": "white", "markersize": 8, "zorder": 2}
        _mark(axes, _exactly(said), row, f"claim-{claim}-{place}", **hollow)
    _mark(axes, lane.here, row, f"arm-{claim}-{lane.name}", color=COLOURS[place], marker=MARKERS[place])
    _say_beside(axes, -place, lane.words)


# ---------------------------------------------------------------- what they share


def look_of(point: Point) -> dict[str, Any]:
    """Return colour and marker, as matplotlib takes them; a published point is hollow and grey."""
    marker = MARKERS[point.style % len(MARKERS)]
    if point.kind == "published":
        return {"color": GREY, "marker": marker, "markerfacecolor": "white"}
    if point.kind == "baseline":
        return {"color": INK, "marker": "D"}
    return {"color": COLOURS[point.style % len(COLOURS)], "marker": marker}


def _exactly(value: float) -> dict[str, Any]:
    """Return a figure without deviation, such as the place of a row."""
    return {"mean": value, "std": None}


def _steady(axes: Axes, axis: Literal["x", "y"]) -> None:
    """Widen what an axis shows where figures hardly differ, so that noise doesn't look like a cliff.

    At least two points of a percentage, or two hundredths of another figure; a percentage stays between 0 and 100.
    """
    read, write = (getattr(axes, f"{do}_{axis}lim") for do in ("get", "set"))
    low, high = sorted(read())
    percent = _in_percent(axes, axis)

    least = 2.0 if percent else 0.02 * max(abs(low), abs(high))
    more = max(0.0, least - (high - low)) / 2
    low, high = low - more, high + more
    if percent and low < 100 and high > 0:
        write(max(low, -MARGIN), min(high, 100 + MARGIN))
    elif more:
        write(low, high)


def _in_percent(axes: Axes, axis: Literal["x", "y"]) -> bool:
    """Tell whether an axis shows a share of something, as its label says."""
    return "(%)" in (axes.get_xlabel() if axis == "x" else axes.get_ylabel())


def _bars(axes: Axes, axis: Literal["x", "y"], value: Mapping[str, Any]) -> Any:
    """Return how far a point's bars go down and up; those of a percentage end at 0 and 100."""
    mean, deviation = value["mean"], value["std"]
    if deviation is None or not (_in_percent(axes, axis) and 0 <= mean <= 100):
        return deviation
    return [[min(deviation, mean)], [min(deviation, 100 - mean)]]


def _mark(axes: Axes, x: Mapping[str, Any], y: Mapping[str, Any], name: str, **look: Any) -> None:
    """Draw one point with what deviations it has; its name is that of its element in the SVG."""
    bars = {"xerr": _bars(axes, "x", x), "yerr": _bars(axes, "y", y), "elinewidth": 1, "capsize": 2.5}
    drawn = axes.errorbar(x["mean"], y["mean"], **bars, **{"markersize": 6.5, "linestyle": "none", "zorder": 3, **look})
    drawn.lines[0].set_gid(re.sub(r"[^A-Za-z0-9_.-]", "-", name))


def _level_line(axes: Axes, height: Mapping[str, Any], *, upright: bool) -> None:
    """Draw the baseline arm's height across the picture, with a band as wide as its deviation."""
    line, band = (axes.axvline, axes.axvspan) if upright else (axes.axhline, axes.axhspan)
    line(height["mean"], color=INK, linewidth=1, linestyle="--", zorder=1)
    mean, deviation = height["mean"], height["std"] or 0.0
    band(mean - deviation, mean + deviation, color=INK, alpha=0.1, linewidth=0, zorder=0)


def _name_rows(axes: Axes, places: list[float], labels: list[str]) -> None:
    axes.set_yticks(places, labels)
    axes.tick_params(axis="y", length=0)


def _say_beside(axes: Axes, place: float, text: str) -> None:
    """Write to the right of a row."""
    axes.annotate(text, (1.015, place), xycoords=("axes fraction", "data"), va="center", size=8.5)


def _finish(made: Figure, result: Mapping[str, Any], height: float, *caption: str) -> None:
    """Add heading and caption, and set the size.

    :param height: of what lies between them, inches.
    """
    seeds = len(result["seeds"])
    over = "one seed, so without deviation" if seeds == 1 else f"mean ± sample standard deviation over {seeds} seeds"
    made.supxlabel(textwrap.fill("; ".join([over, *caption]), 140), x=0.012, ha="left", size=8, color=GREY)
    made.suptitle(heading(result), x=0.012, ha="left", weight="bold", size=11)
    made.set_size_inches(WIDTH, height + 1.0)
