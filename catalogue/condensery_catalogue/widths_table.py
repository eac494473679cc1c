"""The table of the comparison that has each method at several widths, with the papers' figures beside.

``python -m condensery_catalogue.widths_table [--check]`` writes it into ``catalogue/docs/widths.md``. An arm of it is
named after method and width in bits, ``lsq-2``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from condensery.contract import Registry
from condensery_catalogue.generated import keep, markdown_table, play
from condensery_catalogue.listing import own_registry
from condensery_catalogue.reproduction import Comparison, Tier, card_of, load_reproduction
from condensery_catalogue.results import TierName, stored_results
from condensery_catalogue.tuning import at_the_end
from condensery_catalogue.wording import EFFECT, answer, claimed, collapse, effect, measured, spread, subject

KEY = "few-bits"
TIER: TierName = "desk"
PAGE = Path("catalogue/docs/widths.md")
MODULE = "condensery_catalogue.widths_table"
PENDING = "pending"
ORDERS = ("claim", "arms", "the paper says", "what", "measured here", "effect", "verdict")

Asked = Sequence[tuple[Comparison, Mapping[str, Any]]]


def method_and_width(arm: str) -> tuple[str, int]:
    """Return what an arm is named after."""
    method, _, width = arm.rpartition("-")
    return method, int(width)


def width_rows(tier: Tier, asked: Asked, result: Mapping[str, Any] | None) -> tuple[list[str], list[list[str]]]:
    """Return the columns and the rows of the table: a row for each method, a column for each width.

    :param asked: the tier's comparisons, each with its claim.
    :param result: what is stored; ``None``: everything is pending.
    """
    methods: dict[str, dict[int, str]] = {}
    for arm in tier.arms:
        method, width = method_and_width(arm)
        methods.setdefault(method, {})[width] = arm
    widths = sorted({width for arms in methods.values() for width in arms}, reverse=True)

    rows = []
    for method, arms in methods.items():
        papers = [f"{claimed(c)}, {subject(c)}" for item, c in asked if item.arm in arms.values() and not _order(item)]
        cells = [_cell(result, arms[width]) if width in arms else "-" for width in widths]
        rows.append([f"`{method}`", *cells, _chosen(result, list(arms.values())), "; ".join(papers) or "-"])
    return ["method", *(f"{width} bit{'s' * (width > 1)}" for width in widths), "rate", "the papers say"], rows


def order_rows(asked: Asked, result: Mapping[str, Any] | None) -> Iterator[list[str]]:
    """Yield a row for each claim that compares two methods at the same width."""
    made = [] if result is None else result["comparisons"]
    found = {(c["claim"]["id"], c["arm"], c["baseline_arm"]): c for c in made}
    for item, claim in asked:
        if _order(item):
            said = [f"`{claim['id']}`", f"`{item.arm}` against `{item.baseline_arm}`", claimed(claim), subject(claim)]
            here = ["-", "-", PENDING]
            compared = found.get((claim["id"], item.arm, item.baseline_arm))
            if result is not None and compared is not None:
                here = [measured(compared), effect(compared), answer(result, compared)]
            elif result is not None and result.get("diverged", {}).keys() & {item.arm, item.baseline_arm}:
                here = ["-", "-", "an arm diverged"]
            yield [*said, *here]


def _order(item: Comparison) -> bool:
    """Tell whether a comparison is one of two methods at the same width."""
    return item.baseline_arm is not None and method_and_width(item.arm)[1] == method_and_width(item.baseline_arm)[1]


def _cell(result: Mapping[str, Any] | None, arm: str) -> str:
    """Return an arm's quality, and whether its net collapsed."""
    if result is not None and arm in result.get("diverged", {}):
        return "diverged"
    if result is None or arm not in result["arms"]:
        return PENDING
    figures = result["arms"][arm]
    quality = spread(next(iter(figures["quality"].values())))
    return f"{quality}, {gone}" if (gone := collapse(figures)) else quality


def _chosen(result: Mapping[str, Any] | None, arms: Sequence[str]) -> str:
    """Return which values of the grid a method has, and where a better one may lie beyond the grid's end."""
    grid: Mapping[str, Any] = {} if result is None else result.get("grid", {})
    found = next((grid[arm] for arm in arms if arm in grid), None)
    if found is None or found["chosen"] is None:
        return "-"
    return "; ".join(f"{value:g}" for value in found["chosen"].values()) + ", at the grid's end" * at_the_end(found)


def widths_page(registry: Registry) -> str:
    """Return the page that holds the tables."""
    plan = load_reproduction(registry, KEY)
    tier = plan.tiers[TIER]
    asked = plan.comparisons(tier, card_of(registry, plan))
    result = next((found for found in stored_results(registry, KEY) if found["tier"] == TIER), None)

    columns, rows = width_rows(tier, asked, result)
    orders = markdown_table(ORDERS, list(order_rows(asked, result)))
    return f"""<!-- made by python -m {MODULE}: make cards -->

# One net at 8, 4, 2 and 1 bit

{" ".join(plan.notes.split())} {" ".join(tier.note.split())}

Test accuracy in percent; mean ± sample standard deviation over the seeds where an arm has several. A dash: the method
doesn't have that width. The papers' figures are of their own nets, data and schedules; `{PENDING}`: nobody has run it
yet, `condensery reproduce {KEY} --tier {TIER}` does.

{markdown_table(columns, rows)}

## Orders

What the field says of two methods at the same width. {EFFECT}

{orders}
"""


def main(arguments: list[str]) -> int:
    """Write the page into the checkout in the current folder, or check that it is up to date."""
    return keep(PAGE, widths_page(own_registry()), MODULE, check="--check" in arguments)


if __name__ == "__main__":
    sys.exit(play(main))
