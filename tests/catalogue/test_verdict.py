from __future__ import annotations

from typing import Any

import pytest

from condensery_catalogue.verdict import direction, summary, verdict


def test_summary_by_hand() -> None:
    """1, 2, 6: mean 3, sample variance (4 + 1 + 9) / 2 = 7."""
    assert summary([1.0, 2.0, 6.0]) == {"mean": 3.0, "std": pytest.approx(7**0.5), "values": [1.0, 2.0, 6.0]}
    assert summary([5.0])["std"] is None


def test_direction_needs_more_than_the_noise() -> None:
    """Variances 1 and 3 pool to 2: a gain of 1.4 is noise, one of 1.5 isn't."""
    spread_1, spread_3 = [-1.0, 0.0, 1.0], [-(3**0.5), 0.0, 3**0.5]
    assert direction([v + 1.4 for v in spread_1], spread_3, higher_is_better=True) == "within noise"
    assert direction([v + 1.5 for v in spread_1], spread_3, higher_is_better=True) == "held"
    assert direction([v + 1.5 for v in spread_1], spread_3, higher_is_better=False) == "not held"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "reproduced"),
        ({"scale": "scaled-down"}, "scaled-down"),
        ({"source": "recalled"}, "partly"),
        ({"source": "derived"}, "partly"),
        ({"collapsed": True}, "partly"),
        ({"collapsed": True, "scale": "scaled-down"}, "scaled-down"),
        ({"collapsed": True, "measured": 10.0, "went": "not held"}, "not"),
        ({"value": "better"}, None),
        ({"value": "better", "scale": "scaled-down"}, "scaled-down"),
        ({"measured": 95.0}, "partly"),
        ({"measured": 95.0, "went": "within noise"}, "not"),
        ({"went": "within noise"}, "partly"),
        ({"went": "not held"}, "not"),
        ({"went": None}, "reproduced"),
        ({"measured": 95.0, "went": None}, "not"),
        ({"measured": 95.0, "went": None, "bound": 1}, "reproduced"),
        ({"measured": 89.4, "went": None, "bound": 1}, "not"),
        ({"measured": 85.0, "went": None, "bound": -1}, "reproduced"),
        ({"measured": 90.6, "went": None, "bound": -1}, "not"),
    ],
)
def test_verdicts(given: dict[str, Any], says: str | None) -> None:
    given = dict(given)
    base: dict[str, Any] = {
        "scale": "paper",
        "measured": 90.4,
        "tolerance": 0.5,
        "went": "held",
    }
    claim = {"value": given.pop("value", 90.0), "source": given.pop("source", "read")}
    assert verdict(claim=claim, **{**base, **given}) == says
