"""What can be drawn, under which conditions, and what a report comes to."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from condensery import UnknownKey, UsageError
from condensery.recipe import checked
from condensery.run import Limit, Parameter, Space, figure

KIND, WIDTH, DEPTH = "model.key", "model.width", "model.depth"
DATA: dict[str, Any] = {
    "parameters": {
        KIND: ["vit", "resnet8"],
        WIDTH: {"low": 1, "high": 8, "step": 1, "when": {KIND: "resnet8"}, "name": "width"},
        DEPTH: {"low": 0.5, "high": 4.0, "when": {KIND: ["resnet8", "vit"]}, "name": "depth"},
    },
    "requires": ["width * depth <= 8"],
    "objectives": {"validation.accuracy": "maximize"},
    "limits": {"after.bytes": {"at_most": 1000}},
}
SPACE = Space.model_validate(DATA)


def parameter(**settings: Any) -> Parameter:
    return Parameter.model_validate(settings)


@pytest.mark.parametrize(
    ("made", "inside", "outside"),
    [
        (parameter(choice=[1, True, "a", None]), [1, True, "a", None], [1.0, False, "b"]),
        (parameter(choice=[[1, 2], {"a": 1}]), [[1, 2], {"a": 1}], [[1], {"a": 2}]),
        (parameter(low=0, high=1), [0, 0.5, 1.0], [-0.1, 1.1, "0.5", True, math.nan, None]),
        (parameter(low=1e-3, high=1, log=True), [1e-3, 1], [0, 1e-4, 2.0]),
        (parameter(low=2, high=8, step=2), [2, 6, 8], [1, 3, 2.0, 10, True, "4"]),
        (parameter(low=0.1, high=0.4, step=0.1), [0.1, 0.2, 0.1 + 0.2, 0.4], [0.15, 0.5]),
    ],
)
def test_what_can_be_drawn(made: Parameter, inside: list[Any], outside: list[Any]) -> None:
    assert all(made.contains(value) for value in inside)
    assert not any(made.contains(value) for value in outside)
    assert [made.decoded(made.encoded(value)) for value in inside] == inside


@pytest.mark.parametrize(
    ("made", "kind", "bounds"),
    [
        (parameter(choice=["a", 1]), "CategoricalDistribution", {"choices": ('"a"', "1")}),
        (parameter(low=0, high=1), "FloatDistribution", {"low": 0.0, "high": 1.0, "step": None, "log": False}),
        (parameter(low=0.0, high=1.0, step=0.25), "FloatDistribution", {"step": 0.25}),
        (parameter(low=1e-4, high=1e-1, log=True), "FloatDistribution", {"log": True}),
        (parameter(low=2, high=8, step=2), "IntDistribution", {"low": 2, "high": 8, "step": 2}),
        (parameter(low=1, high=64, step=1, log=True), "IntDistribution", {"log": True}),
    ],
)
def test_optuna_draws_from_the_same(made: Parameter, kind: str, bounds: dict[str, Any]) -> None:
    found = made.distribution()
    assert type(found).__name__ == kind
    assert {name: getattr(found, name) for name in bounds} == bounds


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({}, "give either choice, or low and high"),
        ({"choice": [1], "low": 0}, "give either choice, or low and high"),
        ({"choice": []}, "at least 1 item"),
        ({"low": 0}, "got 0 to None"),
        ({"low": 1, "high": 0}, "got 1 to 0"),
        ({"low": 0, "high": 1, "log": True}, "starts above 0"),
        ({"low": 1.0, "high": 2.0, "step": 0.5, "log": True}, "no steps but those of whole numbers"),
        ({"low": 2, "high": 7, "step": 2}, "steps of 2 from 2 don't end at 7"),
        ({"low": 0, "high": True}, "high"),
        ({"choice": ["a"], "name": "kind"}, "must be a number"),
        ({"choice": [1], "name": "2b"}, "name"),
        ({"choice": [1], "lower": 2}, "unknown field 'lower'; did you mean 'low'"),
    ],
)
def test_what_nothing_can_be_drawn_from(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        checked(Parameter, settings, "parameter")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"parameters": {WIDTH: {"choice": [1], "when": {KIND: "vit"}}, KIND: ["vit"]}}, f"above this one '{KIND}'"),
        (
            {"parameters": {"a": {"choice": [1], "name": "x"}, "b": {"choice": [2], "name": "x"}}},
            "a is named 'x' already",
        ),
        ({"requires": ["widht <= 8"]}, "'widht'; did you mean 'width'"),
        ({"requires": ["width + 1"]}, "is not a condition"),
        ({"requires": ["import os"]}, "can't be read"),
        ({"objectives": {}}, "objectives"),
        ({"objectives": {"validation.accuracy": "more"}}, "'minimize'"),
        ({"objectives": {"after.quality.accuracy": "maximize"}}, "measured on the test split; say validation"),
        ({"limits": {"after.quality.accuracy": {"at_least": 90}}}, "measured on the test split; say validation"),
        ({"limits": {"after.bytes": {}}}, "give at_least, at_most, or both"),
        ({"objektives": {}}, "did you mean 'objectives'"),
    ],
)
def test_a_space_is_checked(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        checked(Space, DATA | {"requires": []} | changes if "parameters" in changes else DATA | changes, "space")
    assert "\n" not in str(caught.value)


def test_what_depends_on_a_choice_is_set_with_it_alone() -> None:
    def point(kind: str) -> dict[str, Any]:
        return SPACE.point(lambda path, one: {KIND: kind, WIDTH: 2, DEPTH: 1.0}[path])

    assert point("vit") == {KIND: "vit", DEPTH: 1.0}
    assert point("resnet8") == {KIND: "resnet8", WIDTH: 2, DEPTH: 1.0}
    assert SPACE.problem(point("vit")) is SPACE.problem(point("resnet8")) is None
    assert f"to be set are {DEPTH}, {KIND}" in str(SPACE.problem(point("resnet8") | {KIND: "vit"}))
    assert f"{WIDTH} = 2.5 can't be drawn" in str(SPACE.problem(point("resnet8") | {WIDTH: 2.5}))


def test_a_point_meets_the_conditions_that_speak_of_it() -> None:
    assert SPACE.meets({KIND: "resnet8", WIDTH: 2, DEPTH: 4.0})
    assert not SPACE.meets({KIND: "resnet8", WIDTH: 3, DEPTH: 4.0})
    assert SPACE.meets({KIND: "vit", DEPTH: 4.0})
    assert "doesn't meet width * depth <= 8" in str(SPACE.problem({KIND: "resnet8", WIDTH: 3, DEPTH: 4.0}))


def test_a_space_is_plain_data() -> None:
    assert Space.model_validate(json.loads(json.dumps(SPACE.model_dump(mode="json")))) == SPACE


def test_limits_are_kept_or_broken_by_so_much() -> None:
    assert [Limit(at_most=1000).excess(n) for n in (900, 1000, 1250)] == [-100, 0, 250]
    assert [Limit(at_least=90).excess(n) for n in (88, 90, 95)] == [2, 0, -5]
    assert [Limit(at_least=1, at_most=3).excess(n) for n in (0, 1, 2, 5)] == [1, 0, -1, 2]
    report = {"validation": {"accuracy": 91.5}, "after": {"bytes": 1200}}
    assert SPACE.values(report) == (91.5,)
    assert SPACE.excess(report) == {"after.bytes": 200}


def test_numbers_of_a_report_are_found_by_dotted_paths() -> None:
    report = {"quality": {"accuracy": 91.5}, "kd.loss": {"a.b": 2}, "stages": 3, "flag": True, "macs": None}
    assert figure(report, "quality.accuracy") == 91.5
    assert figure(report, "kd.loss.a.b") == 2.0
    assert math.isnan(figure(report, "macs"))
    with pytest.raises(UnknownKey, match="'acuracy'; did you mean 'accuracy'"):
        figure(report, "quality.acuracy")
    with pytest.raises(UnknownKey, match="'deep'"):
        figure(report, "stages.deep")
    for path in ("quality", "flag"):
        with pytest.raises(UsageError, match="is no number"):
            figure(report, path)
