"""The page of the matrix: what was run, what the order of two methods does, and what papers say of it.

``python -m condensery_catalogue.matrix.page [--check]`` writes it into ``catalogue/docs/matrix.md``.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from condensery.contract import Registry
from condensery_catalogue.generated import keep, markdown_table, play
from condensery_catalogue.listing import own_registry
from condensery_catalogue.matrix.cells import KINDS, OUTCOMES, Cell, Matrix, stored_matrix
from condensery_catalogue.matrix.orders import (
    NO_DIFFERENCE,
    Order,
    costs_less,
    one_way,
    orders,
    saves_less,
    weaker_first,
    which_first,
)

PAGE = Path("catalogue/docs/matrix.md")
MODULE = "condensery_catalogue.matrix.page"
MOST = 20
"""Rows of a list that could have hundreds."""
SAID = {"alone": "alone", "then": "A, then B", "with": "A with B"}
HOW = """\
Each method of the catalogue was really run alone on {nets} small nets, and in pairs on those with pairs below: one
after the other in both orders, and both in one stage. One representative of each cell of the [taxonomy](taxonomy.md),
the method with the most claims, runs in all pairs with the others of them; of the rest of the pairs a seed takes a
sample. `condensery matrix` runs what isn't run yet and goes on where it was stopped, `condensery matrix --store`
publishes it, `condensery matrix --only "CNN: * -> KEY"` runs a part.

A net is trained once, and every cell on it begins with that net. A stage is two epochs of ten steps of 32 examples,
with the settings that a method has by itself (a search has shorter ones, as its card's `contract` says). Where a card
says what must come before a method, that comes before it where it runs alone and where it stands first; a second
method has to do with what the first one leaves. Bytes are those of the artifact. So little training shows whether two
methods can be combined, and what that costs at once; it doesn't show what a paper's schedule would come to."""
WORDS = {
    "works": "it ran to its end, and the net came out no worse than it does from the better of the two alone",
    "worse": "it ran to its end, and the net came out worse than from the better of the two alone, by more than the "
    "deviations of both together; alone: worse than the net that it began with. The better half may be one that saves "
    "no byte",
    "refused": "nothing was trained: a method said why, or the words that it needs, leaves and removes did",
    "fails": "it broke, which is a fault of this project; the innermost lines of the traceback are kept",
    "not run": "nobody has run it yet",
}
DEVIATION = """\
A deviation is the sample standard deviation over the seeds: three for a method alone, two for pairs of
representatives on the CNN, one for the rest. It counts as no smaller than the median deviation of the methods alone
on that net, because two or three seeds may agree by chance; so does that of a cell with one seed."""
RULE = """\
arXiv 2603.18426 (ICLR 2026) claims that the weaker step should come first. We know the claim at second hand, and not
how the paper measures what is weak; here it is measured in two ways, on methods alone: the weaker of two is the one
that costs less of the main figure, by more than both deviations, or the one that leaves the larger file, by more than
a tenth. Counted are pairs of which the order makes a difference. The steps of the second stage also heal what the
first method has cost, and a method that cuts when its stage ends has no step after it where it comes last: with
stages of twenty steps that favours the costly one first, whatever a long schedule would come to."""
CHAIN = """\
arXiv 2604.04988 (2026) runs pruning, then quantization-aware training, then distillation, on CIFAR-10 and CIFAR-100
with ResNet-18, WRN-28-10 and VGG-16-BN, and has an ablation of the order. It is a third party's claim, known to us at
second hand: which figure each order has there we don't know. Ours are pairs, on nets of a few thousand weights."""


def matrix_page(registry: Registry, matrix: Matrix) -> str:
    """Return the page."""
    paired, ways = orders(matrix), one_way(matrix)
    nets = [
        [name, f"`{_spelt(net.model)}` on `{_spelt(net.task)}`", f"{net.metric}, {net.unit}", *_starts(net)]
        for name, net in matrix.nets.items()
    ]
    return f"""<!-- made by python -m {MODULE}: make cards -->

# The matrix: what was run, and what it came to

{HOW.format(nets=len(matrix.nets))}

{markdown_table(["net", "model and task", "main figure", "by chance", "trained", "bytes"], nets)}

{markdown_table(["word", "meaning"], WORDS.items())}

{DEVIATION}

## Counts

{markdown_table(["net", "what", *OUTCOMES[:-1], "seconds, median", "longest"], _count_rows(matrix))}

{_made(matrix)}

## What order does

{_orders(matrix, paired, ways)}

### The weaker step first?

{RULE}

{markdown_table(["weaker is what", "holds", "fails", "neither is weaker"], _rule_rows(matrix, paired))}

### Pruning, then quantization, then distillation?

{CHAIN}

{markdown_table(["first", "then", "better so", "better the other way", NO_DIFFERENCE], _chain_rows(registry, paired))}

## Why not

The reasons of refusals, those of the most cells first.

{markdown_table(["note", "cells", "reason"], _reason_rows(matrix))}

## Faults

{_faults(matrix)}
"""


def _spelt(keyed: Mapping[str, Any]) -> str:
    settings = ", ".join(f"{name}={value}" for name, value in keyed.items() if name != "key")
    return f"{keyed['key']}({settings})" if settings else str(keyed["key"])


def _starts(net: Any) -> list[str]:
    trained = "-" if net.before is None else f"{net.before:.1f}"
    return [f"{net.chance:.0f}", trained, "-" if net.bytes is None else f"{net.bytes:,}"]


def _count_rows(matrix: Matrix) -> Iterator[list[str]]:
    for net in matrix.nets:
        for kind in KINDS:
            some, counted = matrix.some(net, kind), matrix.counts(net, kind)
            seconds = sorted(cell.seconds for cell in some if cell.seconds is not None)
            if some:
                timed = [f"{seconds[len(seconds) // 2]:.1f}", f"{seconds[-1]:.1f}"] if seconds else ["-", "-"]
                yield [net, SAID[kind], *(str(counted[outcome]) for outcome in OUTCOMES[:-1]), *timed]


def _made(matrix: Matrix) -> str:
    """Return by which commits, when and where the cells were made."""
    counted = Counter(cell.made for cell in matrix.cells if cell.made is not None)
    lines = [
        f"- {count:,} cells: {made.date}, commit {made.commit[:12]}, torch {made.torch}, {made.cpu} "
        f"({', '.join(made.flags)})"
        for made, count in sorted(counted.items(), key=lambda item: (item[0].date, item[0].commit))
    ]
    ran = sum(cell.ran for cell in matrix.cells)
    return "\n".join([f"{ran:,} of {len(matrix.cells):,} stored cells ran to their end.", "", *lines])


def _orders(matrix: Matrix, paired: Sequence[Order], ways: Sequence[Cell]) -> str:
    """Return what the pairs that ran both ways say."""
    found = [order for order in paired if order.counts]
    rows = [
        [
            order.cell.net,
            f"`{order.cell.line}`",
            f"{order.cell.after:.1f} ± {order.cell.deviation:.1f}",
            f"{order.back.after:.1f} ± {order.back.deviation:.1f}",
            f"{order.better:+.1f}",
        ]
        for order in found[:MOST]
    ]
    several = sum(len(order.cell.quality) > 1 for order in found)
    shown = f" The {MOST} clearest:" if len(found) > MOST else ""
    return f"""{len(paired):,} pairs ran in both orders. Of {len(found):,} the order makes a difference, more than the
deviations of both together ({several:,} of them with two seeds or more). {len(ways):,} more ran in one order alone,
because the other is refused.{shown}

{markdown_table(["net", "the better order", "figure", "the other order", "better by"], rows)}"""


def _rule_rows(matrix: Matrix, paired: Sequence[Order]) -> Iterator[list[str]]:
    for words, weaker in (("costs less of the main figure", costs_less), ("leaves the larger file", saves_less)):
        counted = weaker_first(matrix, paired, weaker)
        yield [words, *(str(counted[word]) for word in ("holds", "fails", "neither"))]


def _chain_rows(registry: Registry, paired: Sequence[Order]) -> Iterator[list[str]]:
    groups = {
        "pruning": _having(registry, "pruning"),
        "quantization while training": _having(registry, "quantization", training="QAT", target="weight"),
        "distillation": _having(registry, "distillation"),
    }
    names = list(groups)
    for first, second in ((0, 1), (1, 2), (0, 2)):
        counted = which_first(paired, groups[names[first]], groups[names[second]])
        yield [names[first], names[second], *(str(counted[word]) for word in ("first", "second", NO_DIFFERENCE))]


def _having(registry: Registry, family: str, **words: str) -> list[str]:
    """Return the keys of the methods of a family whose cards have some words of the taxonomy."""

    def has(card: Mapping[str, Any]) -> bool:
        taxonomy = card.get("taxonomy", {})
        return card.get("family") == family and all(word in (taxonomy.get(name) or ()) for name, word in words.items())

    return [key for key in registry.keys("methods") if has(registry.card(key) or {})]


def _reason_rows(matrix: Matrix) -> Iterable[list[str]]:
    refused = Counter(cell.reason for cell in matrix.cells if cell.outcome == "refused")
    rows = [[str(number), str(refused[reason]), reason] for reason, number in matrix.notes.items() if refused[reason]]
    return rows[:MOST]


def _faults(matrix: Matrix) -> str:
    """Return the cells that fail; the page says so where there are none."""
    broken = [cell for cell in matrix.cells if cell.outcome == "fails"]
    dead = sum(bool(cell.collapsed) for cell in matrix.cells)
    lines = [f"- {cell.net}: `{cell.line}`: {' '.join(cell.reason.splitlines()[-1:])}" for cell in broken[:MOST]]
    return "\n".join(
        [f"{len(broken)} cells fail. In {dead} of those that ran, layers died on the way.", "", *lines]
    ).strip()


def main(arguments: list[str]) -> int:
    """Write the page into the checkout in the current folder, or check that it is up to date."""
    registry = own_registry()
    return keep(PAGE, matrix_page(registry, stored_matrix(registry)), MODULE, check="--check" in arguments)


if __name__ == "__main__":
    sys.exit(play(main))
