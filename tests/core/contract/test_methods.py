from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from condensery import Method, UsageError
from condensery.contract import build_method


@dataclasses.dataclass(eq=False, kw_only=True)
class Shares(Method):
    ratio: float = 0.5
    rates: dict[str, float] = dataclasses.field(default_factory=dict)
    counts: list[int] = dataclasses.field(default_factory=list)
    names: list[str] = dataclasses.field(default_factory=list)


CARD = {
    "hyperparameters": {
        "ratio": {"ge": 0, "lt": 1},
        "rates": {"gt": 0, "le": 0.9},
        "counts": {"ge": 1},
        "names": {"choices": ["a", "b"]},
    }
}


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"ratio": 1}, "m.ratio must be >= 0 and < 1, got 1"),
        ({"ratio": float("nan")}, "m.ratio must be >= 0 and < 1, got nan"),
        ({"ratio": True}, "m.ratio must be a number, got True"),
        ({"rates": {"a": 0.1, "b": 0}}, "m.rates.b must be > 0 and <= 0.9, got 0"),
        ({"rates": {"a": 0.95}}, "m.rates.a must be > 0 and <= 0.9, got 0.95"),
        ({"rates": {"a": "x"}}, "m.rates.a must be a number, got 'x'"),
        ({"rates": [0.1]}, r"m.rates must be a dict, got \[0.1\]"),
        ({"counts": [3, 0]}, "m.counts.1 must be >= 1, got 0"),
        ({"counts": [3, 0.5]}, "m.counts.1 must be a whole number, got 0.5"),
        ({"names": ["a", "c"]}, "m.names.1: unknown value 'c'; known: a, b"),
    ],
)
def test_a_range_holds_for_each_entry(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=f"^{says}$"):
        build_method("m", Shares, settings, CARD)


def test_whole_numbers_become_floats_where_a_number_is_meant() -> None:
    method: Any = build_method("m", Shares, {"ratio": 0, "rates": {"a": 0.5}, "counts": [2], "names": ["b"]}, CARD)
    assert (method.ratio, method.rates, method.counts, method.names) == (0.0, {"a": 0.5}, [2], ["b"])
    assert isinstance(method.ratio, float)
    free: Any = build_method("m", Shares, {"rates": {"a": 1}})
    assert isinstance(free.rates["a"], float)
