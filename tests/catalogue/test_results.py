from __future__ import annotations

from typing import Any

import pytest

from condensery_catalogue.results import answer, heading, measured, spread, went
from condensery_catalogue.verdict import summary


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


def test_a_comparison_in_words() -> None:
    both: dict[str, Any] = {"measured": summary([2.0, 4.0]), "baseline": summary([1.0]), "gain": summary([1.5])}
    said = {**both, "metric": "after.quality.error", "answers": "gain", "direction": "held", "verdict": "not"}
    assert measured(said) == "1.00 -> 3.00 ± 1.41 error, gain 1.50"
    assert measured({**said, "answers": "value", "baseline": None}) == "3.00 ± 1.41 error"
    assert went(said, 1) == "held (one seed)"
    assert went(said, 3) == "held"
    assert went({**said, "direction": None}, 1) == "-"
    assert answer(said) == "not reproduced"
    assert answer({**said, "verdict": "scaled-down"}) == "scaled-down"
    assert answer({**said, "verdict": None}) == "-"


def test_a_heading_says_the_scale() -> None:
    result = {"key": "a", "tier": "desk", "scale": "scaled-down", "seeds": [0]}
    assert heading(result) == "a, desk tier, scaled-down, 1 seed"
    assert heading({**result, "scale": "paper", "seeds": [0, 1]}) == "a, desk tier, paper's scale, 2 seeds"
