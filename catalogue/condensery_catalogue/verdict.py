"""The rule by which measured figures answer a claim, and nothing but the claim.

Most claims are of small losses, so "did it improve the net?" is the wrong question. A claim *says* one of five things:

========  =======================================================  ==================================================
says      the claim                                                the null, which must be excluded
========  =======================================================  ==================================================
gain      the method is better than its baseline by this much      no difference
loss      it is worse than its baseline by no more than this; a    a loss of ``margin``: twice the claimed one, at
          figure that came out better allows no loss at all        least half a point (else one percent of the
                                                                   baseline)
level     the figure itself                                        a figure that is ``margin`` away
bound     at least this rate, or at most this size; better counts  a figure that falls short by one percent
count     this number, as printed                                  any other number
========  =======================================================  ==================================================

Everything is turned so that more is better. The effect is value minus baseline, in the paper and here; here it has a
95 % interval over the seeds (Welch's for a difference). The words:

- **reproduced**: three seeds at least, of the baseline too (one for a count, which no seed changes), the interval
  contains what the paper says (within the rounding of its printed digits; for a loss a smaller one is as good) and
  excludes the null;
- **inconclusive**: the interval contains what the paper says and doesn't exclude the null; so many seeds would do;
- **partly**: on the claimed side of the null, but not what the paper says;
- **not**: none of these, or a net that collapsed;
- **scaled-down**: another net, data set or schedule than the paper's, whatever was measured; the reason beside it says
  where it points, in the claim's own sense.

A statement without a figure that says ``gain`` ("a pruned teacher teaches better") is answered by any gain.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

Word = Literal["reproduced", "partly", "not", "inconclusive", "scaled-down"]
Says = Literal["gain", "loss", "level", "bound", "count"]
SEEDS = 3
"""Fewer seeds say nothing of the noise."""
ONE_SEED = "one seed tells no direction"
LEVEL = 0.95
"""Of the intervals; one end lies wrong in at most 2.5 % of all cases."""
POINTS = 0.5
"""The least margin of a loss, in points of a percentage; of other units ``SHARE`` of the baseline."""
SHARE = 0.01
NEARLY = 0.05
"""How far from a bound or a count "partly" reaches, as a share of it."""
PERCENTS = ("%", "points")
"""Units in which half a point is the least margin."""
UNSURE = ("recalled", "second-hand")
"""Sources that a verdict takes account of, the less sure first: a claim is as sure as its less sure figure."""


class Summary(TypedDict):
    """Figures over the seeds; the sample standard deviation is ``None`` for one value."""

    mean: float
    std: float | None
    values: list[float]


def summary(values: Sequence[float]) -> Summary:
    """Return mean, sample standard deviation and the values."""
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "std": deviation, "values": list(values)}


@dataclasses.dataclass(frozen=True)
class Interval:
    """A mean and its confidence interval, more is better.

    :param low: minus infinity where one seed leaves the noise unknown; ``high`` likewise.
    """

    mean: float
    low: float
    high: float

    def contains(self, value: float, rounding: float) -> bool:
        """Tell whether a printed figure may stand for something in the interval."""
        return self.low - rounding <= value <= self.high + rounding


@dataclasses.dataclass(frozen=True)
class Claimed:
    """What a claim says, in numbers; see :func:`claimed`.

    :param says: the kind of statement.
    :param effect: value minus baseline for a gain or a loss, else the value; turned so that more is better.
    :param rounding: half a unit of the last printed digit, of the baseline's too where it counts; infinite for a
        statement without a figure.
    :param margin: of a loss, a level or a bound.
    :param source: how the figure is known.
    :param sign: 1 where higher is better, -1 where lower is.
    """

    says: Says
    effect: float
    rounding: float
    margin: float
    source: str = "read"
    sign: int = 1

    @property
    def allowed(self) -> float:
        """What a loss may come to, 0 or less: a paper that says "nothing is lost" doesn't claim its luck of +0.06."""
        return min(0.0, self.effect - self.rounding)


@dataclasses.dataclass(frozen=True)
class Judgement:
    """An answer: the word, why in a few words, and what it rests on.

    :param interval: of the effect, or of the value where the claim has no baseline; in the claim's own unit and sign
        turned so that more is better.
    :param seeds_needed: how many seeds would exclude the null if the paper's effect is true, where that is the reason.
    :param as_claimed: the figures are what the claim says, however well the claim itself is known.
    :param explained: ``why`` is the cause: a collapse, a claim that is only recalled, the quality that a size hangs on.
    """

    word: Word
    why: str
    interval: Interval
    seeds_needed: int | None = None
    as_claimed: bool = False
    explained: bool = False


def says_of(claim: Mapping[str, Any]) -> Says:
    """Return what kind of statement a claim is: as its card says, else by its kind and figures.

    A quality with a baseline is a gain or a loss, one without is a level; sizes and speeds are bounds, counts are
    counts.
    """
    if claim.get("says"):
        return claim["says"]  # type: ignore[no-any-return]
    if claim["kind"] == "count":
        return "count"
    if claim["kind"] in ("size", "speed"):
        return "bound"
    if claim.get("baseline") is None:
        return "level"
    return "gain" if _sign(claim) * (claim["value"]["value"] - claim["baseline"]["value"]) > 0 else "loss"


def claimed(claim: Mapping[str, Any]) -> Claimed | None:
    """Return what a claim says in numbers, or ``None`` for a statement that no figure answers.

    :param claim: of a card, as plain data.
    """
    value, baseline = claim["value"], claim.get("baseline")
    figures = [value, *([baseline] if baseline is not None else [])]
    source = next((s for s in UNSURE if any(figure["source"] == s for figure in figures)), value["source"])
    if not all(isinstance(figure["value"], (int, float)) for figure in figures):
        return Claimed("gain", 0.0, math.inf, 0.0, source, _sign(claim)) if claim.get("says") == "gain" else None

    says, sign = says_of(claim), _sign(claim)
    # 6.60 is stored as 6.6: the figure beside it in the same row tells how many digits are printed.
    rounding = 0.5 * 10.0 ** -max(_decimals(figure["value"]) for figure in figures)
    scale = abs(value["value"])
    if says not in ("gain", "loss"):
        effect = sign * value["value"]
    elif baseline is None:
        effect = scale if says == "gain" else -scale
    else:
        effect = sign * (value["value"] - baseline["value"])
        rounding, scale = 2 * rounding, abs(baseline["value"])

    least = POINTS if claim["unit"] in PERCENTS and says != "bound" else SHARE * scale
    margin = claim.get("margin") or max(-2 * effect if says == "loss" else 0.0, least)
    return Claimed(says, effect, rounding, margin, source, sign)


def judge(
    claim: Claimed,
    measured: Sequence[float],
    baseline: Sequence[float] | None = None,
    *,
    scale: str,
    collapsed: bool = False,
) -> Judgement:
    """Return how figures over the seeds answer a claim.

    :param measured: of the arm with the method, one for each seed; ``baseline`` of the arm without.
    :param scale: ``paper``, or anything else for a smaller run.
    :param collapsed: core found a dead layer or constant outputs in some seed.
    :raises ValueError: for a gain or a loss without a baseline, and for figures that aren't finite.
    """
    if not all(map(math.isfinite, [*measured, *(baseline or ())])):
        raise ValueError("a figure that isn't finite answers no claim")
    turned = [claim.sign * v for v in measured]
    against = None if baseline is None else [claim.sign * v for v in baseline]
    if claim.says in ("gain", "loss") and against is None:
        raise ValueError(f"a {claim.says} is judged against a baseline arm")

    interval = welch(turned, against) if claim.says in ("gain", "loss") and against is not None else of_mean(turned)
    if collapsed:
        return Judgement("not" if scale == "paper" else "scaled-down", "the net collapsed", interval, explained=True)
    found = _RULES[claim.says](claim, interval, turned)
    seeds = min(len(turned), len(turned if against is None else against))
    if scale != "paper":
        return Judgement("scaled-down", _direction(claim, interval) if seeds > 1 else ONE_SEED, interval)
    if seeds < SEEDS and claim.says != "count":
        return Judgement("inconclusive", f"{seeds} of at least {SEEDS} seeds", interval, SEEDS)
    if found.word == "inconclusive":
        return dataclasses.replace(found, seeds_needed=seeds_needed(claim, turned, against))
    if found.word != "reproduced":
        return found
    if claim.source == "recalled":
        why = "as claimed, but the claim was only recalled"
        return Judgement("partly", why, interval, as_claimed=True, explained=True)
    why = f"{found.why}; the claim as another text gives it" if claim.source == "second-hand" else found.why
    return dataclasses.replace(found, why=why, as_claimed=True)


def tied(judgement: Judgement, quality: Judgement) -> Judgement:
    """Return a size's judgement, given that of the quality at which it was claimed: small and bad is no answer."""
    if judgement.word != "reproduced" or quality.as_claimed or quality.word == "scaled-down":
        return judgement
    why = f"reached, but the quality beside it is {quality.word}"
    return Judgement("partly", why, judgement.interval, explained=True)


# ---------------------------------------------------------------- the five rules


def _gain(claim: Claimed, found: Interval, values: Sequence[float]) -> Judgement:
    contains = found.contains(claim.effect, claim.rounding)
    if found.low > 0:
        if contains:
            return Judgement("reproduced", "a gain, as claimed", found)
        return Judgement("partly", f"a {'smaller' if found.mean < claim.effect else 'larger'} gain", found)
    if contains and found.high > 0:
        return Judgement("inconclusive", "no difference isn't excluded", found)
    return Judgement("not", "no gain" if found.high > 0 else "a loss", found)


def _loss(claim: Claimed, found: Interval, values: Sequence[float]) -> Judgement:
    reaches = found.high >= claim.allowed
    if found.low > -claim.margin:
        if reaches:
            return Judgement("reproduced", "loses no more than claimed", found)
        return Judgement("partly", f"loses more than claimed, but less than {claim.margin:g}", found)
    if reaches:
        return Judgement("inconclusive", f"a loss of {claim.margin:g} isn't excluded", found)
    return Judgement("not", "loses more than claimed", found)


def _level(claim: Claimed, found: Interval, values: Sequence[float]) -> Judgement:
    margin = max(claim.margin, claim.rounding)
    inside = claim.effect - margin < found.low and found.high < claim.effect + margin
    if found.contains(claim.effect, claim.rounding):
        if inside:
            return Judgement("reproduced", "the figure that is claimed", found)
        return Judgement("inconclusive", f"{margin:g} more or less isn't excluded", found)
    if inside:
        return Judgement("partly", f"within {margin:g} of the claim", found)
    return (
        Judgement("partly", "better than claimed", found)
        if found.low > claim.effect
        else Judgement("not", "worse than claimed", found)
    )


def _bound(claim: Claimed, found: Interval, values: Sequence[float]) -> Judgement:
    reaches = found.high + claim.rounding >= claim.effect
    if reaches and found.low + claim.rounding > claim.effect - claim.margin:
        return Judgement("reproduced", "reached", found)
    if reaches:
        return Judgement("inconclusive", f"{claim.margin:g} short of it isn't excluded", found)
    short = 100 * (claim.effect - found.mean) / abs(claim.effect) if claim.effect else math.inf
    return Judgement("partly" if short <= 100 * NEARLY else "not", f"missed by {short:.1f} %", found)


def _count(claim: Claimed, found: Interval, values: Sequence[float]) -> Judgement:
    off = max(abs(v - claim.effect) for v in values)
    if off <= claim.rounding * (1 + 1e-9):
        return Judgement("reproduced", "the number that is claimed", found)
    nearly = off <= NEARLY * abs(claim.effect)
    return Judgement("partly" if nearly else "not", f"off by up to {off:g}", found)


_RULES = {"gain": _gain, "loss": _loss, "level": _level, "bound": _bound, "count": _count}


def _direction(claim: Claimed, found: Interval) -> str:
    """Return what a run at another scale points to, in the claim's own sense."""
    if claim.says == "gain":
        return "gains" if found.low > 0 else "loses" if found.high < 0 else "no difference to be seen"
    if claim.says == "loss":
        if found.low > -claim.margin:
            return "loses no more than allowed"
        return "loses more than allowed" if found.high < -claim.margin else "the loss isn't clear"
    return "at least as claimed" if found.mean >= claim.effect - claim.rounding else "less than claimed"


# ---------------------------------------------------------------- intervals


def of_mean(values: Sequence[float]) -> Interval:
    """Return the interval of a mean; unbounded for one value."""
    mean, n = statistics.fmean(values), len(values)
    if n < 2:
        return Interval(mean, -math.inf, math.inf)
    half = _quantile(n - 1) * statistics.stdev(values) / math.sqrt(n)
    return Interval(mean, mean - half, mean + half)


def welch(values: Sequence[float], others: Sequence[float]) -> Interval:
    """Return the interval of a difference of means, for unequal variances (Welch 1947); unbounded for one value each.

    The degrees of freedom are Welch and Satterthwaite's.
    """
    mean = statistics.fmean(values) - statistics.fmean(others)
    if min(len(values), len(others)) < 2:
        return Interval(mean, -math.inf, math.inf)
    parts = [statistics.variance(v) / len(v) for v in (values, others)]
    total = sum(parts)
    if total == 0:
        return Interval(mean, mean, mean)
    freedom = total**2 / sum(p**2 / (len(v) - 1) for p, v in zip(parts, (values, others), strict=True))
    half = _quantile(freedom) * math.sqrt(total)
    return Interval(mean, mean - half, mean + half)


def seeds_needed(claim: Claimed, values: Sequence[float], others: Sequence[float] | None) -> int | None:
    """Return how many seeds exclude the null where the paper's figure is true and the noise is as seen here."""
    noise = statistics.variance(values) + (statistics.variance(others) if others is not None else 0.0)
    distance = {"gain": claim.effect, "loss": claim.margin + min(claim.effect, 0.0)}.get(claim.says, claim.margin)
    for n in range(SEEDS, 1001):
        if _quantile((2 if others is not None else 1) * (n - 1)) * math.sqrt(noise / n) < distance:
            return n
    return None


def _quantile(freedom: float) -> float:
    """Return the quantile of Student's t that bounds a two-sided interval."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 0.5 + LEVEL / 2))


def _sign(claim: Mapping[str, Any]) -> int:
    return -1 if claim.get("better") == "lower" else 1


def _decimals(figure: float) -> int:
    """Return how many digits stand behind the point of a figure as it is printed: one of 64.0, none of 64."""
    text = repr(figure)
    if "e" in text:
        return max(0, -int(text.partition("e")[2]))
    return len(text.partition(".")[2])
