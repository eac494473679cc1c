"""``matrix.html``: what works on which net, after what and beside what, each cell in a table and with what it came to.

All cells are in the page itself, so that they can be read without its script; what only an opened cell shows, which is
figures, commit and machine, is in a file of its own.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from condensery.contract import Registry
from condensery_catalogue.listing import FAMILIES
from condensery_catalogue.matrix import KINDS, OUTCOMES, Cell, Kind, Matrix, orders, stored_matrix
from condensery_catalogue.matrix.page import WORDS

SIGNS = {"works": "ok", "worse": "~", "refused": "-", "fails": "x", "not run": "."}
"""What a cell says in the table; behind ``-`` and ``x`` stands the number of a note."""
SURPRISE = "!"
"""Behind the sign where the order of two methods makes a difference, more than the deviations of both together."""
TITLES = {"alone": "On networks", "then": "A then B", "with": "A with B"}
WAYS = {"then": "row first, then column, each in a stage of its own", "with": "row and column in one stage"}

Entry = Mapping[str, Any]


class Page:
    """What the page shows of a matrix.

    :param methods: keys and families of all methods that run, whether they have a cell or not.
    """

    signs, means, titles, ways = SIGNS, WORDS, TITLES, WAYS

    @classmethod
    def of(cls, registry: Registry) -> Page:
        """Return the page of the stored matrix."""
        methods = [(key, (registry.card(key) or {}).get("family", "")) for key in registry.keys("methods")]
        return cls(stored_matrix(registry), methods)

    def __init__(self, matrix: Matrix, methods: Sequence[tuple[str, str]]) -> None:
        self.matrix = matrix
        families = {family: place for place, family in enumerate(FAMILIES)}
        self.methods = sorted(methods, key=lambda method: (families.get(method[1], len(families)), method[0]))
        self.keys = [key for key, _ in self.methods]
        self.paired = [net for net in matrix.nets if any(matrix.some(net, kind) for kind in KINDS[1:])]
        self.turned = {
            (order.cell.net, methods)
            for order in orders(matrix)
            if order.counts
            for methods in (order.cell.methods, order.back.methods)
        }

        # Numbered by how often each stands in a table, the most frequent one first.
        counted = Counter(note for _, _, _, note in self._cells() if note)
        self.notes = sorted(counted.items(), key=lambda item: (-item[1], item[0]))
        self._numbers = {note: number for number, (note, _) in enumerate(self.notes, 1)}

    def _cells(self) -> Iterator[tuple[Cell, str, str, str]]:
        """Yield each cell that a table shows, with its row, its column and its reason."""
        for net in self.matrix.nets:
            for key in self.keys:
                cell = self.matrix.cell(net, "alone", key)
                yield cell, key, "", said_of(cell.reason, key)
        for net in self.paired:
            for kind in KINDS[1:]:
                for row in self.keys:
                    for column in self.keys:
                        cell = self.cell(net, kind, row, column)
                        yield cell, row, column, said_of(cell.reason, row, column)

    def cell(self, net: str, kind: Kind, row: str, column: str) -> Cell:
        """Return what stands in a table of pairs; where row and column meet, the method alone."""
        return self.matrix.cell(net, "alone", row) if row == column else self.matrix.cell(net, kind, row, column)

    def sign(self, cell: Cell, *methods: str) -> str:
        """Return what a cell says in a table.

        :param methods: its row, and its column where that is a method too.
        """
        number = self._numbers.get(said_of(cell.reason, *methods), "")
        turned = SURPRISE if cell.kind == "then" and (cell.net, cell.methods) in self.turned else ""
        return f"{SIGNS[cell.outcome]}{number}{turned}"

    # ------------------------------------------------------------ for the template

    @property
    def tables(self) -> list[dict[str, Any]]:
        """The tables, each with its kind, net, columns and rows; a row is a key and its cells as HTML.

        A cell's end tag may be left out, which takes a third off the page.
        """
        nets, cell = list(self.matrix.nets), self.matrix.cell
        alone = [(key, _html([self._with_figures(cell(net, "alone", key)) for net in nets])) for key in self.keys]
        found = [{"id": "nets", "kind": "alone", "net": "", "columns": nets, "rows": alone}]
        for kind in KINDS[1:]:
            for net in self.paired:
                rows = [
                    (row, _html([self.sign(self.cell(net, kind, row, column), row, column) for column in self.keys]))
                    for row in self.keys
                ]
                found.append({"id": f"{kind}-{net}", "kind": kind, "net": net, "columns": self.keys, "rows": rows})
        return found

    def _with_figures(self, cell: Cell) -> str:
        sign = self.sign(cell, *cell.methods)
        return f"{sign} {figures(cell)}" if cell.ran else sign

    @property
    def counts(self) -> dict[str, Any]:
        """How many cells were run, of how many, with what outcomes, and when the last one was."""
        return matrix_counts(self.matrix, len(self.keys))

    # ------------------------------------------------------------ for the script

    @property
    def data(self) -> str:
        """What the page's script knows beside what stands in the page, as a script of its own.

        A page that lies on a disk can read no other file.
        """
        dated = {cell.made for cell in self.matrix.cells if cell.made is not None and cell.ran}
        made = sorted(dated, key=lambda entry: (entry.date, entry.commit))
        places = {entry: place for place, entry in enumerate(made)}
        lines = {(cell.net, cell.methods[0]): cell.line for cell in self.matrix.some(kind="alone") if cell.ran}
        cells: dict[str, dict[str, list[Any]]] = {net: {kind: [] for kind in KINDS} for net in self.matrix.nets}
        for cell in self.matrix.cells:
            if cell.ran and set(cell.methods) <= set(self.keys):
                cells[cell.net][cell.kind].append(self._row(cell, places, lines))

        nets = {
            name: {
                "on": f"{net.model['key']} on {net.task['key']}",
                "figure": f"{net.metric} ({net.unit})",
                "before": _short(net.before),
                "bytes": net.bytes,
            }
            for name, net in self.matrix.nets.items()
        }
        found = {
            "methods": self.methods,
            "nets": nets,
            "made": [[entry.commit[:12], entry.date, entry.cpu, entry.torch] for entry in made],
            "notes": [note for note, _ in self.notes],
            "means": [[SIGNS[outcome], outcome, WORDS[outcome]] for outcome in OUTCOMES],
            "cells": cells,
        }
        # Within a script element nothing may end it; this is a file, and stays harmless wherever it is copied.
        text = json.dumps(found, ensure_ascii=False, sort_keys=True, separators=(",", ":")).replace("<", "\\u003c")
        return f"window.MATRIX = {text};\n"

    def _row(self, cell: Cell, made: Mapping[Any, int], lines: Mapping[tuple[str, str], str]) -> list[Any]:
        """Return a cell that ran as a list, as matrix.js reads it."""
        named = [self.keys.index(method) for method in cell.methods]
        known = [lines.get((cell.net, method), method) for method in cell.methods]
        usual = joined(cell.kind, *known) if cell.kind != "alone" else cell.methods[0]
        figures = [_short(cell.after), len(cell.quality), _short(cell.deviation), *map(_short, cell.halves)]
        at = made.get(cell.made)
        return [*named, *figures, cell.bytes, cell.seconds, at, 0 if cell.line == usual else cell.line, *cell.collapsed]


def _html(cells: Sequence[str]) -> Markup:
    return Markup("").join(Markup("<td>{}").format(cell) for cell in cells)


def _short(value: float | None) -> float | None:
    """Return a figure to two places, which is one beyond its deviation."""
    return None if value is None else round(value, 2)


def figures(cell: Cell) -> str:
    """Return the main figure before and after a cell that ran, in words."""
    return f"{cell.before or 0:.1f} → {cell.after or 0:.1f} ± {cell.deviation or 0:.1f}"


def said_of(reason: str, *methods: str) -> str:
    """Return a reason with ``{A}`` and ``{B}`` for the methods in row and column, so that many cells share it."""
    # Where a method meets itself, it is A.
    names = dict.fromkeys(methods[1:], "{B}") | dict.fromkeys(methods[:1], "{A}")
    found = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    return re.sub(rf"(?<![\w-])(?:{found})(?![\w-])", lambda match: names[match[0]], reason) if reason else ""


def joined(kind: Kind, one: str, other: str) -> str:
    """Return the line of most pairs, from the lines of their methods alone; matrix.js does the same."""
    last = other.rpartition(" -> ")[2]
    if kind == "then":
        return f"{one} -> {last}"
    (plain, braces), (beside, more) = (re.fullmatch(r"(.*?)(\{.*\})?", line).groups("") for line in (one, last))  # type: ignore[union-attr]
    return f"{plain} + {beside}{braces or more}"


# ---------------------------------------------------------------- for other pages


def matrix_counts(matrix: Matrix, methods: int) -> dict[str, Any]:
    """Return how many cells were ``run``, ``of`` how many there are, the ``outcomes`` and the last ``date``.

    :param methods: how many methods there are.
    """
    pairs = len([net for net in matrix.nets if matrix.some(net, "then") or matrix.some(net, "with")])
    return {
        "run": sum(cell.ran for cell in matrix.cells),
        "of": methods * len(matrix.nets) + pairs * (methods * (methods - 1) * 3 // 2),
        "outcomes": {outcome: count for outcome in OUTCOMES if (count := matrix.counts()[outcome])},
        "date": max((cell.made.date for cell in matrix.cells if cell.made), default=""),
    }
