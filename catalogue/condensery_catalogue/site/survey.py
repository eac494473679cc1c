"""The survey's own order of the methods: a tree by family and cell, and the cells of its figures on joint methods."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from condensery_catalogue.site.prose import DOCS

TABLE = "## Cells of the survey's figures"
"""The heading in the guide's page on the taxonomy under which the table of the figures stands."""
UNSAID = "not said"
"""The branch of methods that say nothing of a facet."""

Entry = Mapping[str, Any]


@dataclass
class Node:
    """A branch of the tree.

    :param word: of the taxonomy.
    :param facet: that the word belongs to.
    :param members: in which the word stands, each once, whether in a branch below or not.
    :param below: branches by word of the next facet.
    """

    word: str
    facet: str
    members: list[Entry] = field(default_factory=list)
    below: dict[str, Node] = field(default_factory=dict)


@dataclass(frozen=True)
class Cell:
    """A way of combining methods that a figure of the survey draws.

    :param refs: the works that it files there, by their numbers; ``said`` is how the table writes them.
    :param line: a composition that does it here, ``None`` if a method is missing.
    """

    name: str
    refs: tuple[int, ...]
    said: str
    line: str | None
    members: Sequence[Entry]


@dataclass(frozen=True)
class Figure:
    """One figure of the survey, by its number."""

    number: int
    title: str
    cells: list[Cell]


def tree(methods: Sequence[Entry], facets: Mapping[str, Sequence[str]]) -> list[Node]:
    """Return the methods by family, and by the two facets that make up its cells.

    A method with several words of a facet stands in each of their branches.

    :param facets: the two facets by family; a family without any has no branches.
    """
    top: dict[str, Node] = {}
    for entry in methods:
        family = entry["family"] or UNSAID
        node = top.setdefault(family, Node(family, "family"))
        node.members.append(entry)
        _grow(node, entry, facets.get(family, ()))
    return list(top.values())


def _grow(node: Node, entry: Entry, facets: Sequence[str]) -> None:
    """Put a method into the branches below a node."""
    for word in (entry["facets"][facets[0]] or [UNSAID]) if facets else ():
        branch = node.below.setdefault(word, Node(word, facets[0]))
        branch.members.append(entry)
        _grow(branch, entry, facets[1:])


def figures(methods: Sequence[Entry]) -> list[Figure]:
    """Return the survey's figures 6 to 12, read from the guide's page on the taxonomy."""
    text = (DOCS / "taxonomy.md").read_text(encoding="utf-8").partition(TABLE)[2].partition("\n## ")[0]
    found: list[Figure] = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("| ").split(" | ")]
        head = re.fullmatch(r"(\d+), (.+)", cells[0])
        if head:
            found.append(Figure(int(head[1]), head[2], []))
        elif not line.startswith("| |"):
            continue

        # A figure's first line has its cells behind the figure's name, the others have nothing there.
        name, said, made = cells[-3:]
        refs = _numbers(said)
        members = [entry for entry in methods if entry["ref"] in refs]
        composition = re.fullmatch(r"`(.+)`", made)
        found[-1].cells.append(Cell(name, refs, said, composition and composition[1], members))
    return found


def _numbers(said: str) -> tuple[int, ...]:
    """Return the numbers in ``[50]-[53], [55]``."""
    found: list[int] = []
    for first, last in re.findall(r"\[(\d+)\](?:-\[(\d+)\])?", said):
        found += range(int(first), int(last or first) + 1)
    return tuple(found)
