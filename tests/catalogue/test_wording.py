from __future__ import annotations

from typing import Any

import pytest
from tests.catalogue.made_up import CARD, result

from condensery_catalogue.verdict import summary
from condensery_catalogue.wording import (
    answer,
    claimed,
    collapse,
    collapses,
    effect,
    figure,
    heading,
    measured,
    source,
    spread,
    word,
)


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
    assert source(error) == "read: p. 1, M, pruned"
    assert source(theirs) == "recalled, by a third party"
    assert figure({"value": 12, "source": "second-hand"}) == "12 (second-hand)"


SAID: dict[str, Any] = {"word": "partly", "why": "a smaller gain", "says": "gain", "claimed": 0.5, "effect": 0.25}
SAID |= {"interval": [0.125, 0.375], "seeds_needed": None}


def test_a_comparison_in_words() -> None:
    both: dict[str, Any] = {"measured": summary([2.0, 4.0]), "baseline": summary([1.0]), "verdict": SAID}
    said = {**both, "metric": "after.quality.error"}
    assert measured(said) == "1.00 -> 3.00 ± 1.41 error"
    assert measured({**said, "baseline": None}) == "3.00 ± 1.41 error"
    assert effect(said) == "+0.5 claimed, +0.25 here (+0.125 to +0.375)"
    assert effect({"verdict": {**SAID, "claimed": None, "interval": None}}) == "+0.25 here"
    assert effect({"verdict": {**SAID, "says": "bound"}}) == effect({"verdict": None}) == "-"


@pytest.mark.parametrize(
    ("verdict", "says"),
    [
        (SAID, "partly reproduced: a smaller gain"),
        ({**SAID, "word": "not"}, "not reproduced: a smaller gain"),
        ({**SAID, "word": "scaled-down", "why": "gains"}, "scaled-down: gains"),
        ({**SAID, "word": "inconclusive", "why": "why", "seeds_needed": 9}, "inconclusive: why; 9 seeds would do"),
        (None, "-"),
    ],
)
def test_a_verdict_stands_alone(verdict: dict[str, Any] | None, says: str) -> None:
    arms: dict[str, Any] = {"a": {}, "b": {"collapsed": [[], []]}}  # older results don't say whether nets collapsed
    assert answer({"arms": arms}, {"verdict": verdict, "arm": "a", "baseline_arm": "b"}) == says
    assert word({"verdict": verdict}) == says.partition(":")[0]


def test_a_collapse_stands_beside_the_verdict() -> None:
    made = result("desk", {"plain": [6.0, 6.2], "better": [4.6, 4.8]}, collapsed=("better",))
    assert answer(made, made["comparisons"][0]) == "scaled-down: the net collapsed; better collapsed in 1 of 2 seeds"
    entries = made["arms"]["better"]["collapsed"][0]
    assert collapses([*entries, *entries]) == ["collapsed in stage s (ssl): conv1"]
    assert collapse({"collapsed": [entries, entries]}) == "collapsed"


def test_a_heading_says_the_scale() -> None:
    made = {"key": "a", "tier": "desk", "scale": "scaled-down", "seeds": [0]}
    assert heading(made) == "a, desk tier, scaled-down, 1 seed"
    assert heading({**made, "scale": "paper", "seeds": [0, 1]}) == "a, desk tier, paper's scale, 2 seeds"
