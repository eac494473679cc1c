"""From the reports of all arms and seeds to one result: figures with their deviation, and a verdict on each claim."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

from condensery.errors import UsageError
from condensery_catalogue.reproduction import Comparison, Reproduction, Tier
from condensery_catalogue.results import commit
from condensery_catalogue.verdict import direction, summary, verdict

STORAGE = ("file", "payload", "tables", "header", "manifest")
RATES = {"compression_rate": "compression_rate", "storage_rate": "storage_rate", "macs_ratio": "macs"}
"""Names in a result, and those of the report's ratios."""

Report = Mapping[str, Any]
Reports = Mapping[str, Sequence[Report]]
"""The reports of each arm, in the order of the seeds."""


def judge(plan: Reproduction, chosen: Tier, tier: str, card: Mapping[str, Any], reports: Reports) -> dict[str, Any]:
    """Return the result of one tier as plain data: what is stored, shown and drawn.

    :param chosen: the tier, its figure's labels filled in.
    :raises UsageError: for a metric that the reports don't have.
    """
    runs = [run for arm in reports.values() for run in arm]
    result = {
        "key": plan.key,
        "card": plan.card,
        "tier": tier,
        "scale": chosen.scale,
        "note": chosen.note,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "seeds": [run["seed"] for run in next(iter(reports.values()))],
        "epoch": "last",
        "arms": {arm: _figures(found) for arm, found in reports.items()},
        "comparisons": [_compare(i, claim, chosen.scale, reports) for i, claim in plan.comparisons(chosen, card)],
        "versions": runs[0]["versions"],
        "device": ", ".join(sorted({run["device"] for run in runs})),
        "environment": runs[0]["environment"],
        "wall_s": round(sum(run["wall_s"] for run in runs), 2),
        "commit": commit(),
        "recipes": {arm: found[0]["recipe"] for arm, found in reports.items()},
    }

    if chosen.figure is not None:
        axes = {"x": chosen.figure.x, "y": chosen.figure.y}
        for arm, found in reports.items():
            result["arms"][arm]["figure"] = {
                axis: summary([dig(run, path) for run in found]) for axis, path in axes.items()
            }
        published = [{"claim": claim, "at": item.at} for item, claim in plan.published(chosen, card)]
        result["figure"] = chosen.figure.model_dump(mode="json") | {"published": published}
    return result


def _figures(runs: Sequence[Report]) -> dict[str, Any]:
    """Return the figures of one arm: means over the seeds, or one value for each seed."""
    first = runs[0]["after"]
    return {
        "quality": {name: summary([run["after"]["quality"][name] for run in runs]) for name in first["quality"]},
        "parameters": first["parameters"],
        "nonzeros": first["nonzeros"],
        "macs": first["macs"],
        "storage": {name: [run["after"]["storage"][name] for run in runs] for name in STORAGE},
        **{name: [run["ratios"][ratio] for run in runs] for name, ratio in RATES.items()},
        "collapsed": [run.get("collapsed", []) for run in runs],
        "wall_s": [run["wall_s"] for run in runs],
    }


def _compare(item: Comparison, claim: Mapping[str, Any], scale: str, reports: Reports) -> dict[str, Any]:
    """Return what was measured in the place of one claim, and how it answers the claim."""
    measured = [dig(run, item.metric) for run in reports[item.arm]]
    baseline = None if item.baseline_arm is None else [dig(run, item.metric) for run in reports[item.baseline_arm]]

    went, gains = None, None
    if baseline is not None:
        went = direction(measured, baseline, higher_is_better=item.higher_is_better)
        gains = [(m - b) * (1 if item.higher_is_better else -1) for m, b in zip(measured, baseline, strict=True)]

    answer = summary(gains if item.answers == "gain" and gains is not None else measured)
    said = verdict(
        scale=scale,
        claim=claim["value"],
        measured=answer["mean"],
        tolerance=item.tolerance,
        went=went,
        bound=None if item.answers != "bound" else 1 if item.higher_is_better else -1,
        collapsed=any(run.get("collapsed") for arm in item.arms for run in reports[arm]),
    )
    return {
        "claim": claim,
        "metric": item.metric,
        "arm": item.arm,
        "baseline_arm": item.baseline_arm,
        "answers": item.answers,
        "measured": summary(measured),
        "baseline": None if baseline is None else summary(baseline),
        "gain": None if gains is None else summary(gains),
        "direction": went,
        "verdict": said,
    }


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
