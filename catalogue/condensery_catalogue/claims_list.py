"""The list of all claims and where each stands: ``python -m condensery_catalogue.claims_list [--check]``.

It is written into ``catalogue/docs/claims.md``, from cards, recipes and stored results. Imports no torch.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from condensery.contract import Registry
from condensery.errors import UsageError
from condensery_catalogue.generated import keep, markdown_table, play
from condensery_catalogue.listing import own_registry
from condensery_catalogue.reproduction import card_of, load_reproduction
from condensery_catalogue.results import stored_results
from condensery_catalogue.wording import DOUBT, claimed, reference, source, subject, whose, word

PAGE = Path("catalogue/docs/claims.md")
MODULE = "condensery_catalogue.claims_list"
COLUMNS = ("method", "claim", "what", "the paper says", "source", "stands", "where it stands")
STANDS = ("compared", "compared scaled-down", "pending", "answered by another", "out of reach", "statement")
"""How a claim may stand; one that several recipes compare stands as the first of these."""

Standing = tuple[str, str]
"""How a claim stands in one place, and the place in words."""


def standings(registry: Registry) -> dict[tuple[str, str], list[Standing]]:
    """Return how each claim stands in each recipe that compares it, by card and claim; smoke tiers don't count."""
    found: dict[tuple[str, str], list[Standing]] = {}
    for key in registry.keys("recipes"):
        plan = load_reproduction(registry, key)
        card = card_of(registry, plan)
        stored = {result["tier"]: result for result in stored_results(registry, key)}

        for tier, spec in plan.tiers.items():
            made = {c["claim"]["id"]: c for c in stored.get(tier, {"comparisons": []})["comparisons"]}
            gone = stored.get(tier, {}).get("diverged", {})
            for item, claim in plan.comparisons(spec, card) if tier != "smoke" else ():
                place, smaller = f"`{key}`, {tier}", "" if spec.scale == "paper" else " scaled-down"
                if claim["id"] in made:
                    said = made[claim["id"]]
                    why = f": {said['verdict']['why']}" if said["verdict"] else ""
                    standing = (f"compared{smaller}", f"{place}: {word(said)}{why}")
                else:
                    why = "an arm diverged" if gone.keys() & set(item.arms) else spec.takes or "no estimate"
                    standing = ("pending", f"{place}{smaller}: {why}")
                found.setdefault(whose(plan.card, claim), []).append(standing)
    return found


def standing(claim: Mapping[str, Any], places: list[Standing]) -> Standing:
    """Return how a claim stands, and where and why in words.

    :param places: the recipes that compare it.
    :raises UsageError: for a number of which nothing is known.
    """
    found = list(places)
    kind, _, what = claim.get("lacks", "").partition(": ")
    if kind == "same":
        found.append(("answered by another", what))
    elif kind == "recipe":
        found.append(("pending", f"no recipe yet: {what}"))
    elif kind:
        found.append(("out of reach", f"no {kind} here: {what}"))
    elif not found and isinstance(claim["value"]["value"], str):
        found.append(("statement", "a statement without a figure"))
    if not found:
        raise UsageError(f"claim {claim['id']!r}: no recipe compares it, and its card doesn't say what it lacks")
    return min((how for how, _ in found), key=STANDS.index), "; ".join(text for _, text in found)


def claim_rows(registry: Registry) -> Iterator[list[str]]:
    """Yield a row for each claim of each card.

    :raises UsageError: naming a card and its claim of which nothing is known.
    """
    places = standings(registry)
    for key in registry.keys("papers"):
        card = registry.card(key) or {}
        for claim in card.get("claims", []):
            try:
                how, where = standing(claim, places.get((key, claim["id"]), []))
            except UsageError as error:
                raise UsageError(f"card {key!r}: {error}") from None

            yield [
                f"`{key}` {reference(card)}".strip(),
                f"`{claim['id']}`",
                subject(claim),
                claimed(claim),
                source(claim),
                how,
                where,
            ]


def claims_page(registry: Registry) -> str:
    """Return the page that holds the list."""
    rows = list(claim_rows(registry))
    counts = Counter(row[5] for row in rows)
    said = ", ".join(f"{counts[how]} {how}" for how in STANDS if counts[how])
    return f"""<!-- made by python -m {MODULE}: make cards -->

# Claims

Every claim of every card, and where it stands: {said}.

*Compared*: a recipe of the paper's net, data and schedule was run, and the verdict answers the claim
([what the words mean](verdicts.md), [figures](results.md)). *Compared scaled-down*: only a smaller run was, which tells
a direction. *Pending*: a recipe waits to be run, with its own estimate for all of its runs, or waits to be written.
*Answered by another*: another claim says the same. *Out of reach*: data, a net, hardware or a method is missing here.
{DOUBT}

{markdown_table(COLUMNS, rows)}
"""


def main(arguments: list[str]) -> int:
    """Write the page into the checkout in the current folder, or check that it is up to date."""
    return keep(PAGE, claims_page(own_registry()), MODULE, check="--check" in arguments)


if __name__ == "__main__":
    sys.exit(play(main))
