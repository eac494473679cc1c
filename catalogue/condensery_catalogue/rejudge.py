"""Judge the stored results again, from their stored figures: ``python -m condensery_catalogue.rejudge [--check]``.

A verdict depends on the claim, on the rule and on the figures. The figures stay; the claims are the cards' of today.
A result that has no checksum yet gets one; one whose checksum doesn't fit was edited, and stays as it is.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from condensery.files import json_text
from condensery_catalogue.generated import keep, play
from condensery_catalogue.judging import COUNTS, RATES, STORAGE, Report, compare
from condensery_catalogue.listing import own_registry
from condensery_catalogue.reproduction import Reproduction, card_of, load_reproduction
from condensery_catalogue.results import recipe_file, stored_results

MODULE = "condensery_catalogue.rejudge"


def rejudged(result: Mapping[str, Any], plan: Reproduction, card: Mapping[str, Any]) -> dict[str, Any]:
    """Return a stored result with its claims as the card has them now, judged by the rule as it is now."""
    tier = plan.tiers[result["tier"]]
    reports = {arm: seeds_of(figures) for arm, figures in result["arms"].items()}
    judged = {**result, "comparisons": compare(plan.comparisons(tier, card), result["scale"], reports)}
    if "figure" in result:
        published = [{"claim": claim, "at": item.at} for item, claim in plan.published(tier, card)]
        judged["figure"] = {**result["figure"], "published": published}
    return judged


def seeds_of(figures: Mapping[str, Any]) -> list[Report]:
    """Return as much of each seed's report as an arm's figures hold."""
    seeds = range(len(figures["wall_s"]))
    found: list[Report] = []
    for seed in seeds:
        storage = {name: figures["storage"][name][seed] for name in STORAGE if name in figures.get("storage", {})}
        if storage:
            storage["kilobytes"] = (storage["payload"] + storage["tables"]) / 1000

        counts = {name: figures[name][seed] for name in COUNTS}
        quality = {name: said["values"][seed] for name, said in figures["quality"].items()}
        ratios = {ratio: figures[name][seed] for name, ratio in RATES.items() if name in figures}
        collapsed = figures["collapsed"][seed] if "collapsed" in figures else []

        after = {**counts, "quality": quality, "storage": storage}
        training = {name: values[seed] for name, values in figures.get("training", {}).items()}
        validation = {name: values[seed] for name, values in figures.get("validation", {}).items()}
        split = {"after": after, "validation": validation}
        found.append({**split, "ratios": ratios, "training": training, "collapsed": collapsed})
    return found


def main(arguments: list[str]) -> int:
    """Write the project's own results, or check that their verdicts are those of today's claims and rule."""
    registry, code = own_registry(), 0
    for key in registry.keys("recipes"):
        plan, folder = load_reproduction(registry, key), recipe_file(registry, key).parent
        for result in stored_results(registry, key, sealed=False):
            text = json_text(rejudged(result, plan, card_of(registry, plan)))
            code |= keep(folder / f"{result['tier']}.json", text, MODULE, check="--check" in arguments)
    return code


if __name__ == "__main__":
    sys.exit(play(main))
