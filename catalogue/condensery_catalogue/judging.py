"""From the reports of all arms and seeds to one result: figures with their deviation, and a verdict on each claim."""

from __future__ import annotations

import datetime
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from condensery.errors import UsageError
from condensery_catalogue.metrics import TRAINING
from condensery_catalogue.reproduction import Comparison, Reproduction, Tier
from condensery_catalogue.results import commit
from condensery_catalogue.verdict import Judgement, claimed, summary, tied
from condensery_catalogue.verdict import judge as judge_claim

COUNTS = ("parameters", "nonzeros", "macs")
STORAGE = ("file", "payload", "tables", "header", "manifest")
RATES = {
    "compression_rate": "compression_rate",
    "storage_rate": "storage_rate",
    "macs_ratio": "macs",
    "effective_macs_ratio": "effective_macs",
    "parameters_removed_percent": "parameters_removed_percent",
    "macs_removed_percent": "macs_removed_percent",
    "nonzeros_ratio": "nonzeros",
    "speedup": "speedup",
}
"""Names in a result, and those of the report's ratios."""

DIGITS = 9
"""Of an effect behind the point: the digits after these differ from processor to processor."""

Report = Mapping[str, Any]
Reports = Mapping[str, Sequence[Report]]
"""The reports of each arm, in the order of the seeds."""


def judge(
    plan: Reproduction,
    chosen: Tier,
    tier: str,
    card: Mapping[str, Any],
    reports: Reports,
    choices: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the result of one tier as plain data: what is stored, shown and drawn.

    :param chosen: the tier, its figure's labels filled in.
    :param choices: of each arm, what was tried of the tier's grid and what was chosen, where it has one.
    :raises UsageError: for a metric that the reports don't have, or where every arm diverged.
    """
    gone = {arm: said for arm, found in reports.items() if (said := _diverged(found))}
    reports = {arm: found for arm, found in reports.items() if arm not in gone}
    if not reports:
        raise UsageError(f"{plan.key}, {tier}: every arm diverged; {next(iter(gone.values()))['why']}")

    runs = [run for arm in reports.values() for run in arm]
    result = {
        "key": plan.key,
        "card": plan.card,
        "tier": tier,
        "scale": chosen.scale,
        "note": chosen.note,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "seeds": [run["seed"] for run in max(reports.values(), key=len)],
        "epoch": "last",
        "arms": {arm: _figures(found) for arm, found in reports.items()},
        "comparisons": compare(plan.comparisons(chosen, card), chosen.scale, reports),
        "versions": runs[0]["versions"],
        "device": ", ".join(sorted({run["device"] for run in runs})),
        "environment": runs[0]["environment"],
        "wall_s": round(sum(run["wall_s"] for run in runs), 2),
        "commit": commit(),
        "recipes": {arm: found[0]["recipe"] for arm, found in reports.items()},
    }

    if gone:
        result["diverged"] = gone
    if choices:
        result["grid"] = dict(choices)
    if chosen.figure is not None:
        axes = {"x": chosen.figure.x, "y": chosen.figure.y}
        for arm, found in reports.items():
            result["arms"][arm]["figure"] = {
                axis: summary([dig(run, path) for run in found]) for axis, path in axes.items()
            }
        published = [{"claim": claim, "at": item.at} for item, claim in plan.published(chosen, card)]
        series = {name: [a for a in arms if a in reports] for name, arms in chosen.figure.series.items()}
        result["figure"] = chosen.figure.model_dump(mode="json") | {"published": published, "series": series}
        result["figure"]["ranks"] = {path: ranked_alike(reports, path, chosen.figure.y) for path in chosen.figure.ranks}
    return result


def _diverged(runs: Sequence[Report]) -> dict[str, Any]:
    """Return which seeds of an arm diverged, and why the first did; nothing where none did.

    An arm has no figures then: those of the seeds that happened to end would make it look better than it is.
    """
    gone = [run for run in runs if "diverged" in run]
    return {"seeds": [run["seed"] for run in gone], "of": len(runs), "why": gone[0]["diverged"]} if gone else {}


def ranked_alike(reports: Reports, one: str, other: str) -> dict[str, float | None]:
    """Return how alike two numbers rank the arms, by their means over the seeds: 1 alike, -1 reversed.

    :returns: Kendall's tau (b) and Spearman's rho; nothing of both where a number is the same in all arms.
    """
    from scipy.stats import kendalltau, spearmanr

    means = [[statistics.fmean(dig(run, path) for run in runs) for runs in reports.values()] for path in (one, other)]
    if any(len(set(values)) < 2 for values in means):
        return {"kendall": None, "spearman": None}
    found = {"kendall": kendalltau(*means), "spearman": spearmanr(*means)}
    return {name: round(float(said.statistic), DIGITS) for name, said in found.items()}


def _figures(runs: Sequence[Report]) -> dict[str, Any]:
    """Return the figures of one arm: means over the seeds, or one value for each seed."""
    qualities = runs[0]["after"]["quality"]
    return {
        "quality": {name: summary([run["after"]["quality"][name] for run in runs]) for name in qualities},
        **{name: [run["after"][name] for run in runs] for name in COUNTS},
        "storage": {name: [run["after"]["storage"][name] for run in runs] for name in STORAGE},
        **{name: [run["ratios"].get(ratio) for run in runs] for name, ratio in RATES.items()},
        "training": {name: [run.get("training", {}).get(name) for run in runs] for name in TRAINING},
        "validation": {name: [run["validation"][name] for run in runs] for name in runs[0].get("validation", {})},
        "collapsed": [run.get("collapsed", []) for run in runs],
        "wall_s": [run["wall_s"] for run in runs],
    }


Asked = Sequence[tuple[Comparison, Mapping[str, Any]]]
"""Comparisons, each with the claim that it answers."""


def compare(asked: Asked, scale: str, reports: Reports) -> list[dict[str, Any]]:
    """Return what was measured in the place of each claim, and how it answers the claim.

    A comparison with an arm that has no reports, as it diverged, is left out.

    :raises UsageError: for a metric that the reports don't have.
    """
    asked = [(item, claim) for item, claim in asked if all(arm in reports for arm in item.arms)]
    answers = [_judge(item, claim, scale, reports) for item, claim in asked]
    beside = {(item.claim, item.arm): answer for (item, _), answer in zip(asked, answers, strict=True)}

    found = []
    for (item, claim), alone in zip(asked, answers, strict=True):
        quality = beside.get((claim.get("at", ""), item.arm))
        answer = tied(alone, quality) if alone is not None and quality is not None else alone

        found.append(
            {
                "claim": claim,
                "metric": item.metric,
                "arm": item.arm,
                "baseline_arm": item.baseline_arm,
                "measured": summary(_values(reports, item.arm, item.metric)),
                "baseline": summary(_values(reports, item.baseline_arm, item.metric)) if item.baseline_arm else None,
                "verdict": None if answer is None else _said(claim, answer) | _cause(item, answer),
            }
        )
    return found


def _judge(item: Comparison, claim: Mapping[str, Any], scale: str, reports: Reports) -> Judgement | None:
    """Return how the reports answer a claim, ``None`` for a statement that no figure answers."""
    says = claimed(claim)
    if says is None:
        return None
    return judge_claim(
        says,
        _values(reports, item.arm, item.metric),
        None if item.baseline_arm is None else _values(reports, item.baseline_arm, item.metric),
        scale=scale,
        collapsed=any(run.get("collapsed") for arm in item.arms for run in reports[arm]),
    )


def _said(claim: Mapping[str, Any], answer: Judgement) -> dict[str, Any]:
    """Return a judgement as plain data; an interval that isn't known is ``None``, as JSON has no infinity."""
    says = claimed(claim)
    assert says is not None
    bounds = [round(bound, DIGITS) for bound in (answer.interval.low, answer.interval.high)]
    return {
        "word": answer.word,
        "why": answer.why,
        "says": says.says,
        "claimed": round(says.effect, DIGITS) if math.isfinite(says.rounding) else None,
        "effect": round(answer.interval.mean, DIGITS),
        "interval": bounds if all(map(math.isfinite, bounds)) else None,
        "seeds_needed": answer.seeds_needed,
    }


def _cause(item: Comparison, answer: Judgement) -> dict[str, Any]:
    """Return the cause of a verdict that wants one, ``None`` where nobody has tested it yet.

    Noise explains itself; where more was tried to find out what makes it, that is said too.
    """
    wanted = answer.word in ("partly", "not") and not answer.explained
    told = answer.word == "inconclusive" and item.cause
    return {"cause": item.cause or None} if wanted or told else {}


def _values(reports: Reports, arm: str, metric: str) -> list[float]:
    return [dig(run, metric) for run in reports[arm]]


def dig(report: Report, path: str) -> float:
    """Return a number of a report by its dotted path.

    :raises UsageError: naming the part that isn't there.
    """
    node: Any = report
    for part in path.split("."):
        if not isinstance(node, Mapping) or part not in node:
            raise UsageError(f"metric {path!r}: the report has no {part!r}")
        node = node[part]
    if not isinstance(node, (int, float)):
        raise UsageError(f"metric {path!r} is not a number in the report")
    return float(node)
