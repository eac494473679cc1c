"""Which stored results were made by a recipe that says something else by now. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from condensery.errors import CondenseryError
from condensery.recipe import Recipe, parse_recipe
from condensery_catalogue.reproduction import Reproduction, Tier

NAMES = ("name", "paper", "seed")
"""Fields of a recipe that change nothing in what a run comes to, or that each run of a tier has of its own."""


def outgrown(result: Mapping[str, Any], plan: Reproduction) -> list[str]:
    """Return what of a result's recipe has changed since it was made, in words; nothing for one that would be made so.

    :param plan: the reproduction as it is now.
    """
    tier = plan.tiers.get(result["tier"])
    if tier is None:
        return ["the tier is gone"]

    # An arm that has since come or gone says what changed by itself.
    known = {*result["recipes"], *result.get("diverged", {})}
    found = [f"arm {arm} is new" for arm in tier.arms if arm not in known]
    found += [f"arm {arm} is gone" for arm in known if arm not in tier.arms]
    if len(result["seeds"]) != len(tier.seeds):
        found.append(f"{len(tier.seeds)} seeds")
    if _tried(result) != {path: _in_order(values) for path, values in tier.grid.items()}:
        found.append("other settings to try" if "grid" in result else "settings to try")
    return found + [f"arm {arm}: {what}" for arm in tier.arms if (what := _changed(result, plan.key, tier, arm))]


def in_words(changed: list[str]) -> str:
    """Return a sentence of what has changed, for the page of the result; nothing where nothing has."""
    return f"Its recipe has changed since, and it waits for another run: {'; '.join(changed)}." if changed else ""


def _tried(result: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return the values that the arms of a result tried, by path."""
    values: dict[str, list[Any]] = {}
    for found in result.get("grid", {}).values():
        for entry in found["tried"]:
            for path, value in entry["values"].items():
                values.setdefault(path, []).append(value)
    return {path: _in_order(tried) for path, tried in values.items()}


def _in_order(values: list[Any]) -> list[Any]:
    """Return values without those that are there twice, in an order of their own."""
    return sorted(set(values), key=lambda value: (type(value).__name__, value))


def _changed(result: Mapping[str, Any], key: str, tier: Tier, arm: str) -> str:
    """Return which fields of an arm's recipe are others now."""
    if arm not in result["recipes"]:
        return ""
    chosen = result.get("grid", {}).get(tier.leader(arm), {}).get("chosen")
    now = tier.recipe(key, arm, chosen)
    try:
        then = parse_recipe(result["recipes"][arm], f"{key}: arm {arm!r}")
    except CondenseryError:
        return "its recipe can't be read any more"
    fields = [name for name in Recipe.model_fields if name not in NAMES]
    return ", ".join(name for name in fields if getattr(now, name) != getattr(then, name))
