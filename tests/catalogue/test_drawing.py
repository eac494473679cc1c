from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib
import pytest
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from tests.catalogue.made_up import CARD, plan, report

from condensery import Registry
from condensery.errors import CondenseryError
from condensery_catalogue import drawing
from condensery_catalogue.drawing import draw, draw_points, draw_rows, save_drawing
from condensery_catalogue.judging import judge
from condensery_catalogue.points import at_one_x, comparable, describe, is_drawn, points
from condensery_catalogue.reproduction import Reproduction
from condensery_catalogue.results import stored_results

REGISTRY = Registry.open()
EVERY = [result for key in REGISTRY.keys("recipes") for result in stored_results(REGISTRY, key)]
STORED = [result for result in EVERY if is_drawn(result)]
CLAIMS = {claim["id"]: claim for claim in CARD["claims"]}
FIGURE: dict[str, Any] = {"x": "ratios.macs", "y": "after.quality.accuracy"}
WORDS = {"ratios.macs": "MACs (x)", "after.quality.accuracy": "accuracy (%)"}


def planned(arms: list[str], figure: dict[str, Any] | None, **changed: Any) -> Reproduction:
    """Return the made-up reproduction with one tier of these arms."""
    tier: dict[str, Any] = {"arms": {arm: {} for arm in arms}, "figure": figure}
    return plan(**{"tiers": {"desk": tier}, "compare": [], **changed})


def judged(arms: dict[str, tuple[list[float], list[float]]], **figure: Any) -> dict[str, Any]:
    """Return the result of arms with these x and y over the seeds."""
    made = planned(list(arms), {**FIGURE, **figure})
    tier = made.ready(made.tiers["desk"], CARD, dict.fromkeys(arms, WORDS))
    reports = {
        arm: [report(seed, x, accuracy=y) for seed, (x, y) in enumerate(zip(*both, strict=True))]
        for arm, both in arms.items()
    }
    return judge(made, tier, "desk", CARD, reports)


TWO = {"plain": ([1.0, 1.0, 1.0], [90.0, 91.0, 92.0]), "cut": ([2.0, 2.0, 2.3], [88.0, 90.0, 89.0])}
CROWD = {f"criterion-number-{i}": ([2.0 + i / 200] * 3, [90.0, 90.5 + i / 10, 91.0]) for i in range(12)}


def axes_of(result: dict[str, Any]) -> tuple[Figure, Axes]:
    """Draw a figure as :func:`draw` does and return it laid out."""
    made = Figure(layout="constrained")
    with matplotlib.rc_context(drawing.STYLE):
        if "figure" in result:
            (draw_rows if at_one_x(result) else draw_points)(made, result)
        else:
            drawing.draw_claims(made, result)
        made.draw_without_rendering()
    return made, made.axes[0]


def test_judge_keeps_what_the_figure_needs() -> None:
    """Accuracies 88, 90, 89: mean 89, deviation 1; x 2, 2, 2.3: mean 2.1, deviation sqrt(0.06 / 2)."""
    result = judged(TWO, published=[{"claim": "theirs", "at": 2.0}])
    assert result["arms"]["cut"]["figure"]["y"] == {"mean": 89.0, "std": 1.0, "values": [88.0, 90.0, 89.0]}
    assert result["arms"]["cut"]["figure"]["x"]["mean"] == pytest.approx(2.1)
    assert result["arms"]["cut"]["figure"]["x"]["std"] == pytest.approx(0.03**0.5)
    assert result["figure"]["x_label"] == "MACs (x)"
    assert result["figure"]["published"] == [{"claim": CLAIMS["theirs"], "at": 2.0}]
    assert json.loads(json.dumps(result)) == result
    assert judged(TWO, y_label="right answers (%)")["figure"]["y_label"] == "right answers (%)"


def test_an_svg_says_what_it_shows() -> None:
    result = judged(TWO, baseline_arm="plain", published=[{"claim": "theirs", "at": 2.0}])
    root = ElementTree.fromstring(draw(result))
    texts = {element.tag.rpartition("}")[2]: element.text or "" for element in root.iter()}
    assert root.findtext("{*}title") == "made-up, desk tier, scaled-down, 3 seeds"
    assert texts["description"] == describe(result)
    assert "baseline plain: 91.00 ± 1.00 at 1.00 ± 0.00" in texts["description"]
    assert "arm cut: 89.00 ± 1.00 at 2.10 ± 0.17" in texts["description"]
    assert "half the MACs, M, D, by a third party, recalled, not read: 93.25 at 2.00" in texts["description"]
    assert "date" not in texts
    assert {e.get("id") for e in root.iter()} >= {"arm-cut", "baseline-plain"}
    shown = [element.text for element in root.findall(".//{*}text")]
    assert {"made-up, desk tier, scaled-down, 3 seeds", "plain (baseline)", "89.00 ± 1.00"} <= set(shown)
    families = {e.get("style", "").partition("font-family: ")[2].partition(";")[0] for e in root.findall(".//{*}text")}
    assert families == {"'DejaVu Sans', sans-serif"}


@pytest.mark.parametrize("result", STORED, ids=lambda result: result["key"])
def test_stored_results_are_drawn_the_same_each_time(result: dict[str, Any]) -> None:
    text = draw(result)
    assert draw(result) == text
    names = [f"{c['claim']['id']}-{c['arm']}" for c in comparable(result)]
    if "figure" in result:
        names = [arm for arm in result["arms"] if arm != result["figure"]["baseline_arm"]]
    for name in names:
        assert f'id="arm-{name}' in text


@pytest.mark.parametrize("result", STORED, ids=lambda result: result["key"])
def test_axes_of_stored_results_stretch_no_noise_and_bars_end_in_range(result: dict[str, Any]) -> None:
    """Of percentages: an axis shows two points at least, and what lies between 0 and 100 has its bars there."""
    shown = 0
    for axes in axes_of(result)[0].axes:
        for side, label in enumerate((axes.get_xlabel(), axes.get_ylabel())):
            if "(%)" not in label:
                continue
            low, high = sorted((axes.get_xlim, axes.get_ylim)[side]())
            assert high - low >= 2 - 1e-9
            bars = [part for c in axes.containers if isinstance(c, ErrorbarContainer) for part in c.lines[2]]
            ends = [float(end[side]) for part in bars for segment in part.get_segments() for end in segment]
            assert all(-1e-9 <= end <= 100 + 1e-9 for end in ends)
            shown += 1
    words = [str(result.get("figure")), *(c["claim"]["unit"] for c in comparable(result))]
    assert shown or not any("%" in said for said in words)


@pytest.mark.parametrize("arms", [TWO, CROWD], ids=["points", "rows"])
def test_figures_are_drawn_the_same_each_time(arms: dict[str, Any]) -> None:
    result = judged(arms, published=[{"claim": "theirs", "at": 2.0}])
    with matplotlib.rc_context({"font.size": 20, "svg.hashsalt": "other"}):  # a user's own settings change nothing
        other = draw(result)
    assert draw(result) == draw(json.loads(json.dumps(result))) == other


def test_points_carry_their_deviations() -> None:
    """Cut: x 2.1 ± 0.173, y 89 ± 1; plain, the baseline: a band from 90 to 92."""
    _, axes = axes_of(judged({**TWO, "far": ([4.0] * 3, [80.0] * 3)}, baseline_arm="plain"))
    bars, far = (c for c in axes.containers if isinstance(c, ErrorbarContainer))
    across, upright = (lines.get_segments()[0] for lines in bars.lines[2])
    assert across[:, 0] == pytest.approx([2.1 - 0.03**0.5, 2.1 + 0.03**0.5])
    assert upright[:, 1] == pytest.approx([88.0, 90.0])
    assert far.lines[0].get_xydata().tolist() == [[4.0, 80.0]]  # type: ignore[union-attr]
    (band,) = (p for p in axes.patches if isinstance(p, Rectangle))
    assert (band.get_y(), band.get_height()) == pytest.approx((90.0, 2.0))


def test_rows_carry_their_deviations() -> None:
    """The same from left to right: the baseline, which is higher, on top, and its band upright."""
    _, axes = axes_of(judged(TWO, baseline_arm="plain"))
    plain, cut = (c for c in axes.containers if isinstance(c, ErrorbarContainer))
    assert cut.lines[2][0].get_segments()[0][:, 0] == pytest.approx([88.0, 90.0])
    assert plain.lines[0].get_ydata()[0] > cut.lines[0].get_ydata()[0]  # type: ignore[index,operator]
    (band,) = (p for p in axes.patches if isinstance(p, Rectangle))
    assert (band.get_x(), band.get_width()) == pytest.approx((90.0, 2.0))
    assert [label.get_text() for label in axes.get_yticklabels()] == ["plain (baseline)", "cut"]


def test_a_series_is_joined_by_x() -> None:
    arms = {f"half-{i}": ([x], [y]) for i, (x, y) in enumerate([(4.0, 88.0), (2.0, 91.0), (3.0, 89.0)])}
    figure, axes = axes_of(judged({**arms, "alone": ([5.0], [90.0])}, series={"halves": list(arms)}))
    (line,) = [line for line in axes.lines if len(line.get_xydata()) == 3]  # type: ignore[arg-type]
    assert line.get_xydata().tolist() == [[2.0, 91.0], [3.0, 89.0], [4.0, 88.0]]  # type: ignore[union-attr]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["halves", "alone: 90.00"]


def test_a_published_point_is_hollow_and_last() -> None:
    *measured, published = points(judged(TWO, published=[{"claim": "theirs", "at": 2.0}]))
    assert [point.name for point in measured] == ["plain", "cut"]
    assert (published.x["mean"], published.y["mean"]) == (2.0, 93.25)
    assert drawing.look_of(published)["markerfacecolor"] == "white"
    assert drawing.look_of(published)["color"] == drawing.GREY
    looks = [tuple(drawing.look_of(point).items()) for point in points(judged(CROWD))]
    assert len(set(looks)) == 12


def test_arms_at_one_x_are_rows_whose_names_do_not_meet() -> None:
    """X from 2 to 2.055: within 5 %, so a row each, the highest on top and the published point below."""
    published = [{"claim": "theirs", "at": 1.5}, {"claim": "theirs", "at": 3.0}]
    figure, axes = axes_of(judged(CROWD, published=published))
    labels = axes.get_yticklabels()
    names = [label.get_text().replace("\n", " ") for label in labels]
    assert names[:12] == [f"criterion-number-{i}" for i in range(11, -1, -1)]
    assert all("third party" in name for name in names[12:])
    boxes = [label.get_window_extent() for label in labels]
    for above, below in itertools.pairwise(boxes):
        assert above.y0 >= below.y1
    assert min(box.x0 for box in boxes) >= 0
    assert figure.get_size_inches()[1] < 8


@pytest.mark.parametrize(("x", "rows"), [(2.1, True), (2.11, False)])
def test_what_counts_as_one_x(x: float, rows: bool) -> None:
    """5 % of 2.1 is 0.105, more than 0.1; of 2.11 it is 0.1055, less than 0.11. The baseline's x doesn't count."""
    arms = {"a": ([2.0], [90.0]), "b": ([x], [91.0]), "dense": ([1.0], [92.0])}
    assert at_one_x(judged(arms, baseline_arm="dense")) == rows


@pytest.mark.parametrize(
    ("figure", "says"),
    [
        ({"x": "ratios.mac"}, "unknown metric 'ratios.mac'; did you mean 'ratios.macs'"),
        ({"y": "after.quality.acuracy"}, "did you mean 'after.quality.accuracy'"),
        ({"baseline_arm": "plan"}, "unknown arm 'plan'; did you mean 'plain'"),
        ({"series": {"s": ["cutt"]}}, "unknown arm 'cutt'; did you mean 'cut'"),
        ({"published": [{"claim": "their", "at": 2}]}, "unknown claim 'their'; did you mean 'theirs'"),
        ({"published": [{"claim": "words", "at": 2}]}, "claim 'words' is no number"),
        ({"series": {"s": ["cut", "cut"]}}, "arm 'cut' is there twice"),
        ({"series": {"s": ["cut"]}, "baseline_arm": "cut"}, "arm 'cut' is there twice"),
        ({"series": {"s": []}}, "at least 1 item"),
    ],
)
def test_a_wrong_name_is_one_line(figure: dict[str, Any], says: str) -> None:
    with pytest.raises(CondenseryError, match=says) as caught:
        judged(TWO, **figure)
    assert "\n" not in str(caught.value)


def test_a_wrong_metric_of_a_comparison_is_found_before_anything_trains() -> None:
    compare = [{"claim": "theirs", "metric": "after.quality.acuracy", "arm": "cut"}]
    made = planned(["cut"], None, compare=compare)
    with pytest.raises(CondenseryError, match=r"did you mean 'after\.quality\.accuracy'"):
        made.ready(made.tiers["desk"], CARD, {"cut": WORDS})


def test_a_figure_of_the_baseline_alone_is_refused() -> None:
    with pytest.raises(CondenseryError, match="no arm but the baseline"):
        judged({"plain": TWO["plain"]}, baseline_arm="plain")


def test_a_collapsed_arm_says_so() -> None:
    """In its row; among points in the legend, or beside the point where a series is named in its place."""
    entry = {"stage": "s", "methods": ["ssl"], "what": ["conv1"]}
    for arms, shown in (
        ({"a": ([2.0], [90.0]), "b": ([2.0], [80.0])}, "b, collapsed"),
        ({"a": ([2.0], [90.0]), "b": ([4.0], [80.0])}, "b, collapsed: 80.00"),
    ):
        result = judged(arms)
        result["arms"]["b"]["collapsed"] = [[entry]]
        assert f">{shown}</text>" in draw(result)
        assert "arm b, collapsed: 80.00 at" in describe(result)
    result = judged({"a": ([2.0], [90.0]), "b": ([4.0], [80.0])}, series={"both": ["a", "b"]})
    result["arms"]["b"]["collapsed"] = [[entry]]
    assert ">collapsed</text>" in draw(result)


def test_a_result_without_numbers_to_compare_has_no_picture(tmp_path: Path) -> None:
    result = judged(TWO)
    assert is_drawn(result)
    save_drawing(result, tmp_path / "a.svg")
    assert (tmp_path / "a.svg").read_text(encoding="utf-8") == draw(result)
    del result["figure"]
    assert not is_drawn(result)
    words = {"claim": CLAIMS["words"], "metric": "after.quality.accuracy", "arm": "cut"}
    assert not is_drawn({**result, "comparisons": [words]})


def test_what_hardly_differs_is_no_cliff() -> None:
    """97.200 and 97.220 %: the axis shows two points at least, and so do rows; of another figure two hundredths."""
    close = {"a": ([2.0] * 3, [97.2] * 3), "b": ([4.0] * 3, [97.22] * 3)}
    _, axes = axes_of(judged(close))
    low, high = axes.get_ylim()
    assert high - low == pytest.approx(2.0)
    assert low < 97.2
    assert high > 97.22

    _, axes = axes_of(judged({arm: ([2.0] * 3, y) for arm, (_, y) in close.items()}))
    low, high = axes.get_xlim()
    assert high - low == pytest.approx(2.0)

    _, axes = axes_of(judged(close, y="ratios.macs", y_label="times"))
    assert axes.get_ylim()[1] - axes.get_ylim()[0] >= 2.0  # 2.0 and 4.0 differ, and are shown as they are


def test_bars_of_a_percentage_end_at_0_and_100() -> None:
    """Accuracies 99, 100, 97: mean 98.67, deviation 1.53, which is more than is left above."""
    _, axes = axes_of(judged({"a": ([2.0] * 3, [99.0, 100.0, 97.0]), "b": ([4.0] * 3, [0.0, 0.0, 1.0])}))
    ends = [c.lines[2][1].get_segments()[0][:, 1].tolist() for c in axes.containers if isinstance(c, ErrorbarContainer)]
    (low_a, high_a), (low_b, high_b) = ends
    assert high_a == pytest.approx(100)
    assert low_a == pytest.approx(98.667 - 1.528, abs=1e-3)
    assert low_b == pytest.approx(0)
    assert high_b == pytest.approx(0.333 + 0.577, abs=1e-3)
    assert -drawing.MARGIN <= axes.get_ylim()[0] < axes.get_ylim()[1] <= 100 + drawing.MARGIN
