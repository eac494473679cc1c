"""The map of distillation: ``python -m condensery_catalogue.distillation_map [--check]``.

It is written into ``catalogue/docs/distillation.md``, from the taxonomy of the cards. Imports no torch.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from condensery.contract import Registry
from condensery_catalogue.generated import keep, markdown_table, play
from condensery_catalogue.listing import own_registry

PAGE = Path("catalogue/docs/distillation.md")
MODULE = "condensery_catalogue.distillation_map"

KNOWLEDGE = {
    "output": "outputs",
    "intermediate": "what layers inside give",
    "relation": "relations between layers or examples",
    "structural": "several of these together",
}
SCHEMES = {
    "offline": "the teacher is trained first",
    "online": "both train together",
    "self": "the net teaches itself",
}
STUDENTS = {
    "pruned": "the teacher, thinner or shallower",
    "quantized": "the teacher, quantized",
    "designed": "a small net of efficient operations",
    "searched": "a net whose structure was searched for",
    "same": "the teacher's own structure",
}
"""The words of a card's taxonomy, in the order and the meaning that the survey quotes from [40]."""


def placed(registry: Registry) -> dict[str, Mapping[str, Any]]:
    """Return the cards that say which knowledge goes from whom to whom, by key."""
    cards = {key: registry.card(key) or {} for key in registry.keys("papers")}
    return {key: card for key, card in cards.items() if card.get("taxonomy", {}).get("knowledge")}


def map_rows(cards: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """Return a row for each scheme and kind of knowledge, with the methods under each kind of student."""
    rows = []
    for scheme, how in SCHEMES.items():
        for knowledge, what in KNOWLEDGE.items():
            found: dict[str, list[str]] = {student: [] for student in STUDENTS}
            for key, card in cards.items():
                words = card["taxonomy"]
                if words.get("scheme") == scheme and knowledge in words["knowledge"]:
                    for student in words.get("student_source", []):
                        found[student].append(named(key, card))
            rows.append([f"`{scheme}`: {how}", f"`{knowledge}`: {what}", *(", ".join(cell) for cell in found.values())])
    return rows


def named(key: str, card: Mapping[str, Any]) -> str:
    """Return a method's key with its number in the survey."""
    return f"`{key}`" + (f" [{card['ref']}]" if card.get("ref") else "")


def teacher_rows(cards: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """Return a row for each method: where its teacher comes from, and what it is in one sentence."""
    return [
        [named(key, card), card["taxonomy"].get("teacher_source") or "", card["summary"]] for key, card in cards.items()
    ]


def distillation_page(registry: Registry) -> str:
    """Return the page."""
    cards = placed(registry)
    columns = ("scheme", "knowledge", *(f"`{word}`: {meaning}" for word, meaning in STUDENTS.items()))
    return f"""<!-- made by python -m {MODULE}: make cards -->

# Distillation, by what goes from whom to whom

Gou and others, "Knowledge Distillation: A Survey", International Journal of Computer Vision 129, 2021 [40], have three
kinds of knowledge and three schemes; the survey that this catalogue reproduces adds a fourth kind, `structural`, and
quotes five kinds of student from it. Each method stands where its card's taxonomy puts it
([the words](taxonomy.md)), in several cells where the paper has several; an empty cell has no method here. A student of
another kind may be taught all the same: the cells tell what the papers did.

{markdown_table(columns, map_rows(cards))}

## A teacher's answers, kept

`CONDENSERY_TEACHER_MB=500` lets what a frozen teacher answers fill so many megabytes of the cache: a batch that it met
before isn't given to it again. Order and augmentation follow a run's seed, so that it pays where runs share seed and
teacher, as the trials of a grid do. It holds for methods on outputs, and changes no bit of a result.

## Each method and its teacher

{markdown_table(("method", "teacher", "in one sentence"), teacher_rows(cards))}
"""


def main(arguments: list[str]) -> int:
    """Write the page into the checkout in the current folder, or check that it is up to date."""
    return keep(PAGE, distillation_page(own_registry()), MODULE, check="--check" in arguments)


if __name__ == "__main__":
    sys.exit(play(main))
