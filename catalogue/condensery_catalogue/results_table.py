"""The table of all claims and figures, from cards, recipes and stored results.

``python -m condensery_catalogue.results_table [--check]`` writes it into ``catalogue/docs/results.md``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from condensery.contract import Registry
from condensery_catalogue.generated import keep, markdown_table, play
from condensery_catalogue.listing import own_registry
from condensery_catalogue.outgrown import outgrown
from condensery_catalogue.reproduction import Reproduction, card_of, load_reproduction
from condensery_catalogue.results import stored_results
from condensery_catalogue.wording import (
    DOUBT,
    EFFECT,
    EXPLAINED,
    answer,
    claimed,
    collapse,
    effect,
    explained,
    measured,
    ranked,
    reference,
    seeds_of,
    source,
    subject,
)

PAGE = Path("catalogue/docs/results.md")
MODULE = "condensery_catalogue.results_table"
COLUMNS = (
    "reproduction",
    "tier",
    "scale",
    "claim",
    "what",
    "the paper says",
    "source",
    "measured here",
    "seeds",
    "effect",
    "verdict",
)
PENDING = "pending"

Row = dict[str, str]
"""The cells of a row by column; a column that isn't there is a dash."""


def claim_rows(registry: Registry) -> list[Row]:
    """Return the rows of all reproductions in a registry, whatever package brings them.

    There is one row for each tier and claim. A tier without a stored result is ``pending``; ``smoke`` never keeps one.
    """
    rows: list[Row] = []
    for key in registry.keys("recipes"):
        plan = load_reproduction(registry, key)
        card = card_of(registry, plan)
        stored = {result["tier"]: result for result in stored_results(registry, key)}

        for tier, spec in plan.tiers.items():
            since = ""
            if tier in stored:
                found = list(_measured_rows(stored[tier]))
                since = ", recipe changed since" if outgrown(stored[tier], plan) else ""
            elif tier != "smoke":
                found = list(_pending_rows([claim for _, claim in plan.comparisons(spec, card)]))
            else:
                continue
            rows += [
                {"reproduction": _name(plan, card), "tier": tier + since, "scale": spec.scale} | row for row in found
            ]
    return rows


def _name(plan: Reproduction, card: Mapping[str, Any]) -> str:
    """Return a reproduction's key, its card's where they differ, and the card's number in the survey."""
    names = [f"`{plan.key}`"]
    if plan.card != plan.key:
        names.append(f"of `{plan.card}`")
    if card.get("ref"):
        names.append(reference(card))
    return " ".join(names)


def _measured_rows(result: Mapping[str, Any]) -> Iterator[Row]:
    """Return the rows of a stored result: its comparisons, and arms beside them that collapsed."""
    seeds = str(len(result["seeds"]))
    compared = set()
    for comparison in result["comparisons"]:
        compared |= {comparison["arm"], comparison["baseline_arm"]}
        here = {"measured here": measured(comparison), "seeds": str(seeds_of(comparison)), "effect": effect(comparison)}
        yield {**_claim(comparison["claim"]), **here, "verdict": answer(result, comparison)}

    if not result["comparisons"]:
        alike = ", ".join(f"{name} ({how})" for name, how in ranked(result).items())
        by = f", ranked as by {result['figure']['y_label']}: {alike}" if alike else ""
        yield {"measured here": f"{len(result['arms'])} arms{by}; none answers a claim", "seeds": seeds}
    for arm, figures in result["arms"].items():
        if arm not in compared and (words := collapse(figures)):
            yield {"measured here": f"arm {arm}", "seeds": seeds, "verdict": words}


def _pending_rows(claims: Sequence[Mapping[str, Any]]) -> Iterator[Row]:
    """Return the rows of a tier that has no stored result; one row if it answers no claim."""
    for claim in claims:
        yield {**_claim(claim), "verdict": PENDING}
    if not claims:
        yield {"verdict": PENDING}


def _claim(claim: Mapping[str, Any]) -> Row:
    return {
        "claim": f"`{claim['id']}`",
        "what": subject(claim),
        "the paper says": claimed(claim),
        "source": source(claim),
    }


def results_page(registry: Registry) -> str:
    """Return the page that holds the table."""
    table = markdown_table(COLUMNS, [[row.get(column, "-") for column in COLUMNS] for row in claim_rows(registry)])
    return f"""<!-- made by python -m {MODULE}: make cards -->

# Results

What the papers claim, and what was measured here: figures of the last epoch, as mean ± sample standard deviation over
the seeds (runs that differ in their random numbers), the baseline before the arrow. {EFFECT}

- *Tier*: `desk` takes minutes, mostly on a part of the training data; `paper` has the paper's net, data and schedule as
  far as they are here, and its *scale* says whether that is so.
- *Claim*: its name in the paper's card; *what* it is of: metric, net, setting and data set; *seeds*: how many.
- *Source*: `read` where it was published, in that row; `second-hand`, as another text gives it; `recalled`, from
  memory. {DOUBT}
- *Verdict*, which answers the claim and nothing else ([the rule](verdicts.md)). {explained(EXPLAINED)} A verdict names
  its cause where one was tested. A net *collapsed* where a layer of it died, or its outputs no longer depend on its
  inputs. `{PENDING}`: nobody has run the tier yet; [each claim](claims.md) says how long that takes, or what is
  missing.

Each result lies beside its recipe, `reproductions/condensery_reproductions/<key>/<tier>.json`. `make site` builds a
page for each, with its picture, all arms, recipes, versions and machine.

{table}
"""


def main(arguments: list[str]) -> int:
    """Write the page into the checkout in the current folder, or check that it is up to date."""
    return keep(PAGE, results_page(own_registry()), MODULE, check="--check" in arguments)


if __name__ == "__main__":
    sys.exit(play(main))
