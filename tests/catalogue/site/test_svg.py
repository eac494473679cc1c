from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from condensery_catalogue.listing import own_registry
from condensery_catalogue.points import Lane
from condensery_catalogue.site.arms import Arm, arms_of, curves, ranked
from condensery_catalogue.site.svg import Axis, Curve, Dot, chart, curve, dumbbell, least, rows


def summary(mean: float, std: float | None = None) -> dict[str, float | None]:
    return {"mean": mean, "std": std}


def test_an_axis_leaves_room_and_has_round_ticks() -> None:
    axis = Axis.over([0, 100], 0, 580)
    assert (axis.low, axis.high) == (-8, 108)
    assert axis(0) == "40"
    assert axis(100) == "540"
    assert axis.ticks(5) == [0, 50, 100]
    assert Axis(0.91, 0.99, 0, 1).ticks(4) == pytest.approx([0.92, 0.94, 0.96, 0.98])
    assert Axis.over([7, 7], 0, 10)(7) == "5"


def test_a_claim_is_joined_to_what_was_measured_on_one_scale() -> None:
    drawn = dumbbell([Lane("arm", summary(60, 10), {"value": 100, "source": "read"}), Lane("plain", summary(0), None)])
    x = Axis.over([0, 50, 70, 100], 8, 212)
    assert f'<circle class="paper" cx="{x(100)}" cy="11" r="5"/>' in drawn
    assert f'<circle class="here" cx="{x(60)}" cy="11" r="4"/>' in drawn
    assert f'<path class="apart" d="M{x(100)} 11H{x(60)}"/>' in drawn
    assert f'<path class="noise" d="M{x(50)} 11H{x(70)}"/>' in drawn
    assert f'<circle class="base" cx="{x(0)}" cy="33" r="4"/>' in drawn
    assert 'aria-label="arm: here 60.00 ± 10.00, paper 100; plain: here 0.00"' in drawn


def test_noise_is_no_cliff() -> None:
    axis = Axis.over([93.1, 93.3], 0, 100, least=2.0)
    assert (axis.low, axis.high) == pytest.approx((92.04, 94.36))
    assert least("accuracy (%)") == 2.0
    assert least("loss (nats)") == 0.0


def test_names_find_a_place_beside_their_dots() -> None:
    dots = [Dot(name, True, summary(x), summary(90), "#") for name, x in (("one", 1), ("two", 1.1), ("three", 9))]
    drawn = curve(Curve("x", "y", [*dots, Dot("<b>", False, summary(5), summary(5), "#")], {}))
    # On the right of one there is the other dot.
    assert re.findall(r'<g text-anchor="(\w+)"><text [^>]*>(one|two|three)</text>', drawn) == [
        ("end", "one"),
        ("start", "two"),
        ("start", "three"),
    ]
    assert re.findall('<path class="other" d="([^"]+)"', drawn) == ["M340 211h0"]
    assert "b&gt;" not in drawn


def test_a_name_without_room_is_left_to_its_dot() -> None:
    dots = [Dot("a" * 90, True, summary(1), summary(90), "#"), Dot("b", True, summary(2), summary(80), "#")]
    drawn = curve(Curve("x", "y", dots, {}))
    assert "aaa</text>" not in drawn
    assert f"<title>{'a' * 90}: 90.00 at 1.00</title>" in drawn


def test_a_series_is_joined_from_left_to_right_and_what_papers_say_is_hollow() -> None:
    one, two = (Dot(name, True, summary(at), summary(at), "#") for name, at in (("one", 1), ("two", 2)))
    paper = Dot("paper", False, summary(0), summary(3), "#claims")
    drawn = curve(Curve("x", "y", [two, one], {}, [paper], [[two, one]]))
    places = {at: re.search(f'{at}: .*?<circle cx="([^"]+)" cy="([^"]+)"', drawn) for at in ("one", "two")}
    joined = " ".join(",".join(found.groups()) for found in places.values() if found)
    assert f'<polyline points="{joined}"/>' in drawn
    assert '<a class="paper" href="#claims"><title>paper: 3.00 at 0.00</title>' in drawn


def test_rows_say_each_figure_beside_it() -> None:
    arm = Dot("arm, collapsed in 1 of 2 seeds", True, summary(2), summary(60, 10), "#")
    paper = Dot("paper", False, summary(2), summary(93.5), "#")
    drawn = rows(Curve("x", "accuracy (%)", [arm], {"b" * 90: summary(90)}, [paper]))
    x = Axis.over([50, 93.5], 320, 520)
    assert f'<circle class="base" cx="{x(90)}" cy="11" r="4.5"/>' in drawn
    assert f'<path class="noise" d="M{x(50)} 33H{x(70)}"/>' in drawn
    assert f'<circle class="paper" cx="{x(93.5)}" cy="55" r="4.5"/>' in drawn
    assert f"{'b' * 43}…</text>" in drawn
    assert f'aria-label="{"b" * 90}: 90.00; arm, collapsed in 1 of 2 seeds: 60.00 ± 10.00; paper: 93.5"' in drawn


def test_arms_that_are_equally_small_stand_in_rows() -> None:
    """Over 3.17642 and 3.17646 a curve would stretch what a file's header adds."""
    one, two = (
        Dot(name, own, summary(at, 1e-5), summary(80), "#")
        for name, own, at in (("a", True, 3.17642), ("b", False, 3.17646))
    )
    drawn = chart(Curve("rate", "accuracy (%)", [one, two], {"plain": summary(81)}))
    assert 'class="rows"' in drawn
    assert "accuracy (%) at rate: 3.18</text>" in drawn
    assert '<a class="own" href="#"><title>a: 80.00 at 3.1764 ± 0.0000</title>' in drawn
    assert re.findall('circle class="([a-z]+)"', drawn) == ["base", "here", "base"]
    assert 'aria-label="plain: 81.00; a: 80.00; b: 80.00"' in drawn
    assert 'class="curve"' in chart(Curve("rate", "accuracy (%)", [one, replace(two, x=summary(3.4))], {}))


def result(spread: float | None = 0.1) -> dict[str, Any]:
    """Return a made-up result: a dense net and three arms, by which methods act in them."""
    made = {
        "dense": (99, 1, [{"epochs": 1}]),
        "good": (98, 4, [{"methods": [{"key": "a"}]}]),
        "bad": (97, 4, [{"rounds": 2, "stages": [{"methods": [{"key": "b"}, {"key": "b"}]}]}]),
        "both": (97.5, 8, [{"methods": [{"key": "a"}]}, {"methods": [{"key": "b"}]}]),
    }
    model, task = {"key": "m", "hidden": [8, 4], "weights": "w"}, {"key": "digits"}
    return {
        "key": "r",
        "tier": "desk",
        "card": "c",
        "seeds": [0, 1],
        "arms": {
            name: {
                "quality": {"loss": summary(1), "accuracy": summary(accuracy, spread)},
                "compression_rate": [rate, rate, None],
                "storage": {"file": [10, 20]},
            }
            for name, (accuracy, rate, _) in made.items()
        },
        "recipes": {name: {"model": model, "task": task, "stages": stages} for name, (*_, stages) in made.items()},
    }


RESULT = result()


def arms(spread: float | None = 0.1) -> list[Arm]:
    return arms_of([result(spread)], own_registry())


def test_arms_are_ranked_on_one_net_behind_the_one_that_nothing_compresses() -> None:
    every = arms()
    assert [arm.methods for arm in every] == [(), ("a",), ("b",), ("a", "b")]
    ((place, found),) = ranked(every).items()
    assert place == ("m (hidden 8-4) on digits", "desk")
    assert [arm.name for arm in found] == ["dense", "good", "both", "bad"]
    assert (found[1].metric, found[1].quality["mean"], found[1].bytes) == ("accuracy", 98, 15)
    assert ranked([arm for arm in every if not arm.methods]) == {}


def test_an_arm_may_have_no_stage_as_a_net_that_base_training_alone_made() -> None:
    bare = result()
    del bare["recipes"]["dense"]["stages"]
    assert arms_of([bare], own_registry())[0].methods == ()


def test_a_curve_is_of_the_results_in_which_a_method_acts() -> None:
    every = arms()
    (shown,) = curves(every, "a")
    assert {dot.name: dot.own for dot in shown.curve.dots} == {"good": True, "bad": False, "both": True}
    assert shown.curve.lines.keys() == {"dense"}
    assert shown.curve.dots[0].x["mean"] == 4
    assert [dot.name for dot in curves(every, "c", ["a", "b"])[0].curve.dots if dot.own] == ["both"]
    assert curves(every, "other", ["a", "b"]) == []
    assert curves(every, "z") == []
