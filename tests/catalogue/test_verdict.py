"""The rule that judges claims: each word by hand, every claim's own figures, and how often chance gets a word."""

from __future__ import annotations

import math
import random
from collections import Counter
from typing import Any

import pytest

from condensery import Registry
from condensery_catalogue.verdict import (
    Claimed,
    Says,
    claimed,
    judge,
    of_mean,
    says_of,
    seeds_needed,
    summary,
    tied,
    welch,
)


def test_summary_by_hand() -> None:
    """1, 2, 6: mean 3, sample variance (4 + 1 + 9) / 2 = 7."""
    assert summary([1.0, 2.0, 6.0]) == {"mean": 3.0, "std": pytest.approx(7**0.5), "values": [1.0, 2.0, 6.0]}
    assert summary([5.0])["std"] is None


def test_the_interval_of_a_mean_by_hand() -> None:
    """-1, 0, 1: deviation 1, t(2) = 4.3027, half width 4.3027 / sqrt 3 = 2.4842."""
    found = of_mean([-1.0, 0.0, 1.0])
    assert [found.low, found.high] == pytest.approx([-2.4841, 2.4841], abs=1e-3)


def test_welchs_interval_by_hand() -> None:
    """Variances 1 and 4 of 3 each: total 5/3, freedom (5/3)^2 / ((1/3)^2/2 + (4/3)^2/2) = 50/17 = 2.941, t = 3.2145."""
    found = welch([9.0, 10.0, 11.0], [3.0, 5.0, 7.0])
    assert found.mean == pytest.approx(5.0)
    assert found.high - found.mean == pytest.approx(3.2145 * (5 / 3) ** 0.5, rel=1e-2)


def test_one_seed_says_nothing_of_the_noise() -> None:
    assert welch([1.0], [0.0]).low == -float("inf")


def claim(
    says: Says, effect: float, *, margin: float = 0.5, rounding: float = 0.005, source: str = "read", sign: int = 1
) -> Claimed:
    return Claimed(says, effect, rounding, margin, source, sign)


def word(given: Claimed, measured: list[float], baseline: list[float] | None = None, **options: Any) -> str:
    return judge(given, measured, baseline, **{"scale": "paper", **options}).word


TIGHT = [0.0, 0.01, -0.01]
"""Seeds with a deviation of 0.01: a difference of two such means is known within 0.023."""


def around(value: float) -> list[float]:
    return [value + t for t in TIGHT]


@pytest.mark.parametrize(
    ("says", "effect", "here", "expected"),
    [
        ("gain", 1.0, 1.0, "reproduced"),
        ("gain", 1.0, 0.5, "partly"),
        ("gain", 1.0, 1.5, "partly"),
        ("gain", 1.0, 0.0, "not"),
        ("gain", 1.0, -1.0, "not"),
        ("loss", -0.1, -0.1, "reproduced"),
        ("loss", -0.1, 0.3, "reproduced"),
        ("loss", -0.1, -0.3, "partly"),
        ("loss", -0.1, -0.7, "not"),
    ],
)
def test_gains_and_losses(says: Says, effect: float, here: float, expected: str) -> None:
    """90 is the baseline, here is what the method adds."""
    assert word(claim(says, effect), around(90 + here), around(90.0)) == expected


@pytest.mark.parametrize(
    ("here", "expected"),
    [(0.06, "reproduced"), (0.0, "reproduced"), (-0.02, "reproduced"), (-0.06, "partly"), (-0.7, "not")],
)
def test_where_nothing_was_lost_a_claim_of_no_loss_allows_none(here: float, expected: str) -> None:
    """A paper's figure is 0.06 better. The intervals reach 0.023 to each side: that around -0.02 contains no loss."""
    assert word(claim("loss", 0.06, rounding=0.01), around(90 + here), around(90.0)) == expected


def test_lower_may_be_better() -> None:
    """An error that falls from 6.75 to 6.60 is a gain of 0.15."""
    given = claim("gain", 0.15, sign=-1)
    assert word(given, around(6.60), around(6.75)) == "reproduced"
    assert word(given, around(6.75), around(6.60)) == "not"


def test_noise_makes_inconclusive_and_says_how_many_seeds_would_do() -> None:
    """Deviations of 1 each: t * sqrt(2 / n) < 1 first holds at n = 9: t(16) = 2.1199, times 0.4714 is 0.9994."""
    noisy = [-1.0, 0.0, 1.0]
    found = judge(claim("gain", 1.0), [91 + v for v in noisy], [90 + v for v in noisy], scale="paper")
    assert (found.word, found.seeds_needed) == ("inconclusive", 9)
    assert seeds_needed(claim("gain", 1e-6), noisy, noisy) is None


@pytest.mark.parametrize(
    ("says", "effect", "here", "expected"),
    [
        ("level", 90.0, around(90.0), "reproduced"),
        ("level", 90.0, around(90.3), "partly"),
        ("level", 90.0, around(89.0), "not"),
        ("level", 90.0, around(91.0), "partly"),
        ("level", 90.0, [89.0, 90.0, 91.0], "inconclusive"),
        ("bound", 40.0, [40.3, 40.3, 40.3], "reproduced"),
        ("bound", 40.0, [45.0, 46.0, 47.0], "reproduced"),
        ("bound", 40.0, [39.9, 40.0, 40.1], "reproduced"),
        ("bound", 40.0, [39.2, 39.2, 39.2], "partly"),
        ("bound", 40.0, [30.0, 30.0, 30.0], "not"),
        ("bound", 40.0, [39.0, 40.0, 41.5], "inconclusive"),
        ("count", 14.0, [14.0], "reproduced"),
        ("count", 64.0, [64.004], "reproduced"),
        ("count", 64.0, [63.0], "partly"),
        ("count", 14.0, [18.0], "not"),
    ],
)
def test_levels_bounds_and_counts(says: Says, effect: float, here: list[float], expected: str) -> None:
    assert word(claim(says, effect), here) == expected


def test_rounding_of_printed_digits_counts() -> None:
    """40x may be 39.5x; 40.0x may not."""
    assert word(claim("bound", 40.0, rounding=0.5), [39.5] * 3) == "reproduced"
    assert word(claim("bound", 40.0, rounding=0.05), [39.5] * 3) == "partly"


def test_another_scale_a_recalled_claim_few_seeds_and_a_collapse() -> None:
    given = claim("gain", 1.0)
    assert word(given, around(91.0), around(90.0), scale="scaled-down") == "scaled-down"
    assert word(claim("gain", 1.0, source="recalled"), around(91.0), around(90.0)) == "partly"
    assert word(given, [91.0, 91.01], [90.0, 90.01]) == "inconclusive"
    assert word(given, around(91.0), around(90.0), collapsed=True) == "not"


def test_a_scaled_down_run_tells_its_direction_in_the_claims_own_sense() -> None:
    options: dict[str, Any] = {"scale": "scaled-down"}
    assert judge(claim("loss", -0.1), around(89.8), around(90.0), **options).why == "loses no more than allowed"
    assert judge(claim("loss", -0.1), around(88.0), around(90.0), **options).why == "loses more than allowed"
    assert judge(claim("gain", 1.0), around(90.2), around(90.0), **options).why == "gains"


def test_one_seed_tells_no_direction_and_the_baselines_seeds_count_too() -> None:
    options: dict[str, Any] = {"scale": "scaled-down"}
    for given in (claim("gain", 1.0), claim("loss", -0.1), claim("level", 90.0)):
        assert judge(given, [29.3], [91.5, 91.6, 91.7], **options).why == "one seed tells no direction"
    assert word(claim("gain", 1.0), around(91.0), [90.0, 90.01]) == "inconclusive"
    assert word(claim("gain", 1.0), around(91.0), [90.0]) == "inconclusive"
    assert word(claim("count", 1000), [1000.0]) == "reproduced"


@pytest.mark.parametrize("says", ["gain", "loss", "level", "bound", "count"])
def test_what_is_not_finite_answers_nothing(says: Any) -> None:
    for wrong in (math.nan, math.inf):
        with pytest.raises(ValueError, match="isn't finite"):
            judge(claim(says, 1.0), [1.0, wrong, 1.0], around(1.0), scale="paper")


def test_a_bound_of_nothing_is_missed_by_anything() -> None:
    assert judge(claim("bound", 0.0), [-2.0, -2.1, -2.2], scale="paper").word == "not"


def test_a_printed_zero_is_a_digit() -> None:
    """64.0 is printed to a tenth, so 63.55 is another number; 64 is printed to one, and 63.55 is it."""
    for value, expected in ((64.0, "partly"), (64, "reproduced")):
        said = {"kind": "count", "value": {"value": value, "source": "read"}, "unit": "%", "better": "higher"}
        found = claimed(said)
        assert found is not None
        assert word(found, [63.55] * 3) == expected


def test_a_size_is_tied_to_the_quality_it_was_claimed_at() -> None:
    size = judge(claim("bound", 40.0), [40.3] * 3, scale="paper")
    bad = judge(claim("loss", -0.1), around(80.0), around(90.0), scale="paper")
    assert (size.word, bad.word) == ("reproduced", "not")
    assert tied(size, bad).word == "partly"
    for source, said in (("read", "reproduced"), ("recalled", "partly")):
        good = judge(claim("loss", -0.1, source=source), around(89.9), around(90.0), scale="paper")
        assert good.word == said
        assert tied(size, good).word == "reproduced"


def test_a_second_hand_claim_can_be_reproduced_and_says_so() -> None:
    found = judge(claim("gain", 1.0, source="second-hand"), around(91.0), around(90.0), scale="paper")
    assert (found.word, found.why) == ("reproduced", "a gain, as claimed; the claim as another text gives it")


# ---------------------------------------------------------------- every claim's own figures


def claims() -> list[Any]:
    found = []
    for entry in Registry.open().entries["papers"].values():
        for item in entry.target["claims"]:
            sources = {item["value"]["source"], (item.get("baseline") or item["value"])["source"]}
            if isinstance(item["value"]["value"], (int, float)) and "recalled" not in sources:
                found.append(pytest.param(item, id=f"{entry.key}:{item['id']}"))
    return found


@pytest.mark.parametrize("item", claims())
def test_a_run_that_measures_the_papers_figures_is_reproduced(item: dict[str, Any]) -> None:
    """Each claim's own figures, with a spread of a thousandth of what they must show."""
    given = claimed(item)
    if given is None:
        pytest.skip("a baseline in words")
    little = 1e-3 * max(abs(given.effect), given.margin, 1e-6)
    if given.says == "count":
        little = 0.0
    measured = [item["value"]["value"] + little * t for t in (-1, 0, 1)]
    baseline = None
    if given.says in ("gain", "loss"):
        # A claim without a baseline states the difference itself: any baseline will do.
        without = measured[1] - given.sign * given.effect
        start = item["baseline"]["value"] if "baseline" in item else without
        baseline = [start + little * t for t in (-1, 0, 1)]
    found = judge(given, measured, baseline, scale="paper")
    assert found.word == "reproduced", found


def test_claims_say_what_their_kind_says() -> None:
    base: dict[str, Any] = {"kind": "quality", "value": {"value": 6.6}, "baseline": {"value": 6.75}}
    assert says_of({**base, "better": "lower"}) == "gain"
    assert says_of(base) == "loss"
    assert says_of({**base, "baseline": None}) == "level"
    assert says_of({**base, "kind": "size"}) == "bound"
    assert says_of({**base, "kind": "count"}) == "count"
    assert says_of({**base, "says": "bound"}) == "bound"


def figure(value: float | str, source: str = "read") -> dict[str, Any]:
    return {"value": value, "source": source}


def test_claims_in_numbers_by_hand() -> None:
    """6.75 to 6.60 of an error: up 0.15, each figure rounded to a hundredth."""
    error: dict[str, Any] = {"kind": "quality", "unit": "%", "better": "lower", "baseline": figure(6.75)}
    better = claimed({**error, "value": figure(6.6)})
    assert better is not None
    assert better.effect == pytest.approx(0.15)
    assert (better.says, better.rounding, better.margin, better.source, better.sign) == ("gain", 0.01, 0.5, "read", -1)

    worse = claimed({**error, "value": figure(7.25, "recalled")})
    assert worse is not None
    assert (worse.says, worse.effect, worse.margin, worse.source) == ("loss", -0.5, 1.0, "recalled")

    alone: dict[str, Any] = {"kind": "quality", "unit": "points", "value": figure(2.6)}
    assert claimed({**alone, "says": "gain"}) == Claimed("gain", 2.6, 0.05, 0.5, "read", 1)
    assert claimed({**alone, "says": "loss", "better": "lower"}) == Claimed("loss", -2.6, 0.05, 5.2, "read", -1)


def test_a_statement_of_a_gain_is_answered_by_any_gain() -> None:
    says: dict[str, Any] = {"kind": "qualitative", "unit": "statement", "value": figure("better")}
    assert claimed(says) is None
    given = claimed({**says, "says": "gain"})
    assert given is not None
    assert [word(given, around(90 + gain), around(90.0)) for gain in (0.1, 30.0, 0.0, -1.0)] == [
        "reproduced",
        "reproduced",
        "inconclusive",
        "not",
    ]


# ---------------------------------------------------------------- chance


def words(given: Claimed, effect: float, noise: float, seeds: int, runs: int = 2000) -> Counter[str]:
    """Return how often each word comes out where the true effect and the noise of one seed are known."""
    draw = random.Random(20260101)
    found: Counter[str] = Counter()
    for _ in range(runs):
        method = [90 + effect + draw.gauss(0, noise) for _ in range(seeds)]
        baseline = [90 + draw.gauss(0, noise) for _ in range(seeds)]
        found[word(given, method, baseline)] += 1
    return found


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("noise", [0.1, 0.3, 1.0])
def test_chance_is_called_reproduced_in_less_than_five_percent(seeds: int, noise: float) -> None:
    """A useless method: no gain where one is claimed; a loss of the whole margin where a smaller one is."""
    runs = 2000
    for given, useless in ((claim("gain", 0.5), 0.0), (claim("loss", -0.1), -0.5)):
        chance = words(given, useless, noise, seeds, runs)
        true = words(given, given.effect, noise, seeds, runs)
        print(f"{given.says}, {seeds} seeds, noise {noise}: useless {dict(chance)}, true {dict(true)}")
        assert chance["reproduced"] / runs < 0.05
        assert true["not"] / runs < 0.05
        if noise == 0.1:
            assert true["reproduced"] / runs > 0.5
