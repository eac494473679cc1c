from __future__ import annotations

from typing import Any

import pytest
from tests.catalogue.made_up import CARD, result

from condensery_catalogue.verdict import summary
from condensery_catalogue.wording import answer, claimed, collapse, collapses, heading, measured, source, spread, went


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ([90.0, 91.0], "90.50 ± 0.71"),
        ([0.5, 0.49, 0.5], "0.497 ± 0.006"),  # deviation 0.00577
        ([0.02634, 0.02636], "0.0263 ± 0.0000"),  # deviation 0.000014: four decimals at most
        ([100.0, 100.0], "100.00 ± 0.00"),
        ([1.239], "1.24"),
    ],
)
def test_spread_shows_the_first_digit_of_the_deviation(values: list[float], says: str) -> None:
    assert spread(summary(values)) == says


def test_nothing_measured_is_a_dash() -> None:
    assert spread(None) == "-"


def test_claims_in_words() -> None:
    error, gain, theirs, words = CARD["claims"]
    assert [claimed(c) for c in (error, gain, words)] == ["6 -> 4.4 %", "1.5 (recalled, not read) points", "better"]
    assert source(error) == "read: p. 1"
    assert source(theirs) == "recalled, by a third party"


def test_a_comparison_in_words() -> None:
    both: dict[str, Any] = {"measured": summary([2.0, 4.0]), "baseline": summary([1.0]), "gain": summary([1.5])}
    said = {**both, "metric": "after.quality.error", "answers": "gain", "direction": "held"}
    assert measured(said) == "1.00 -> 3.00 ± 1.41 error, gain 1.50"
    assert measured({**said, "answers": "value", "baseline": None}) == "3.00 ± 1.41 error"
    assert went({"seeds": [0]}, said) == "held (one seed)"
    assert went({"seeds": [0, 1, 2]}, said) == "held"
    assert went({"seeds": [0]}, {**said, "direction": None}) == "-"


@pytest.mark.parametrize(
    ("verdict", "says"),
    [("not", "not reproduced"), ("partly", "partly reproduced"), ("scaled-down", "scaled-down"), (None, "-")],
)
def test_a_verdict_stands_alone(verdict: str | None, says: str) -> None:
    arms: dict[str, Any] = {"a": {}, "b": {"collapsed": [[], []]}}  # older results don't say whether nets collapsed
    assert answer({"arms": arms}, {"verdict": verdict, "arm": "a", "baseline_arm": "b"}) == says


def test_a_collapse_stands_beside_the_verdict() -> None:
    made = result("desk", {"plain": [6.0, 6.2], "better": [4.6, 4.8]}, collapsed=("better",))
    assert answer(made, made["comparisons"][0]) == "scaled-down; better collapsed in 1 of 2 seeds"
    entries = made["arms"]["better"]["collapsed"][0]
    assert collapses([*entries, *entries]) == ["collapsed in stage s (ssl): conv1"]
    assert collapse({"collapsed": [entries, entries]}) == "collapsed"


def test_a_heading_says_the_scale() -> None:
    made = {"key": "a", "tier": "desk", "scale": "scaled-down", "seeds": [0]}
    assert heading(made) == "a, desk tier, scaled-down, 1 seed"
    assert heading({**made, "scale": "paper", "seeds": [0, 1]}) == "a, desk tier, paper's scale, 2 seeds"
