"""The cells of the matrix as they are stored, and how they are looked up. Imports no torch."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

from condensery.contract import Registry
from condensery.errors import UnknownKey, UsageError
from condensery.files import SEAL, package_folder, read_json, seal, write_atomic
from condensery_catalogue.results import RESTORE

Kind = Literal["alone", "then", "with"]
Outcome = Literal["works", "worse", "refused", "fails", "not run"]
KINDS: tuple[Kind, ...] = get_args(Kind)
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
JOINED = {"alone": "", "then": " -> ", "with": " + "}
"""What stands between two methods of a cell."""
FILE = "matrix.json"
FORMAT = 1


@dataclasses.dataclass(frozen=True)
class NetFacts:
    """One net of the matrix: what all of its cells begin with.

    :param model: as a recipe has it; so is ``task``.
    :param metric: the task's main figure, in ``unit``; ``higher`` is better, or not.
    :param chance: the main figure of a net that knows nothing.
    :param before: the main figure of the trained net.
    :param bytes: of its file.
    """

    model: Mapping[str, Any]
    task: Mapping[str, Any]
    metric: str
    unit: str
    higher: bool
    chance: float
    before: float | None = None
    bytes: int | None = None


@dataclasses.dataclass(frozen=True)
class Made:
    """Where and when a cell was run: the commit of the code, the day, the processor and the version of torch."""

    commit: str
    date: str
    cpu: str
    flags: tuple[str, ...]
    torch: str


@dataclasses.dataclass(frozen=True)
class Cell:
    """What one method alone, or two of them, came to on one net.

    :param kind: ``alone``; ``then``, the second in the stage after the first's; ``with``, both in one stage.
    :param line: the composition that was run, in one line.
    :param quality: the net's main figure afterwards, once for each seed; empty where it wasn't run to its end.
    :param before: the same of the net as it was.
    :param halves: the mean of the same for each of the two methods alone, in the order of ``methods``.
    :param deviation: sample standard deviation over the seeds, and at least what is usual on this net.
    :param bytes: of the net's file afterwards; ``bytes_before`` of the net as it was.
    :param seconds: of processor time, for one seed.
    :param reason: why it was refused, or the innermost lines of the traceback.
    :param collapsed: layers that died on the way.
    :param made: ``None`` for a cell that follows from another one, or was not run.
    """

    net: str
    kind: Kind
    methods: tuple[str, ...]
    outcome: Outcome
    line: str = ""
    quality: tuple[float, ...] = ()
    before: float | None = None
    halves: tuple[float, ...] = ()
    deviation: float | None = None
    bytes: int | None = None
    bytes_before: int | None = None
    seconds: float | None = None
    reason: str = ""
    collapsed: tuple[str, ...] = ()
    made: Made | None = None

    @property
    def ran(self) -> bool:
        """Whether it ran to its end."""
        return bool(self.quality)

    @property
    def after(self) -> float | None:
        """The mean of its quality over the seeds."""
        return statistics.fmean(self.quality) if self.quality else None


Name = tuple[str, Kind, tuple[str, ...]]


@dataclasses.dataclass(frozen=True)
class Matrix:
    """All cells that are stored; those that aren't follow from others, or were not run.

    :param nets: by the name that cells have for them.
    """

    nets: Mapping[str, NetFacts] = dataclasses.field(default_factory=dict)
    cells: tuple[Cell, ...] = ()

    @cached_property
    def _by_name(self) -> dict[Name, Cell]:
        return {(cell.net, cell.kind, cell.methods): cell for cell in self.cells}

    @property
    def methods(self) -> list[str]:
        """Keys of the methods that have a cell, sorted."""
        return sorted({method for cell in self.cells for method in cell.methods})

    def cell(self, net: str, kind: Kind, *methods: str) -> Cell:
        """Return one cell; of two methods in one stage the order makes no difference.

        Where a method is refused alone, so is every pair with it; that follows, and isn't stored.
        """
        for order in (methods, methods[::-1]) if kind == "with" else (methods,):
            found = self._by_name.get((net, kind, order))
            if found is not None:
                return found

        for method in methods if len(methods) > 1 else ():
            alone = self._by_name.get((net, "alone", (method,)))
            if alone is not None and alone.outcome == "refused":
                return Cell(net, kind, methods, "refused", reason=alone.reason)
        return Cell(net, kind, methods, "not run")

    def some(self, net: str | None = None, kind: Kind | None = None, method: str | None = None) -> list[Cell]:
        """Return the stored cells of a net, of a kind, with a method; ``None`` is any."""
        return [
            cell
            for cell in self.cells
            if net in (None, cell.net) and kind in (None, cell.kind) and (method is None or method in cell.methods)
        ]

    def counts(self, net: str | None = None, kind: Kind | None = None) -> Counter[str]:
        """Return how many stored cells came to each outcome."""
        return Counter(cell.outcome for cell in self.some(net, kind))

    @cached_property
    def notes(self) -> dict[str, int]:
        """The number of each reason, the most frequent one first, from 1."""
        counted = Counter(cell.reason for cell in self.cells if cell.reason)
        ordered = sorted(counted, key=lambda reason: (-counted[reason], reason))
        return {reason: number for number, reason in enumerate(ordered, 1)}


# ---------------------------------------------------------------- the file


def matrix_files(registry: Registry) -> dict[str, Path]:
    """Return where each package that offers reproductions keeps its part of the matrix, whether it is there or not."""
    packages = sorted({entry.target.partition(":")[0] for entry in registry.entries["recipes"].values()})
    folders = {package: package_folder(package) for package in packages}
    return {package: folder / FILE for package, folder in folders.items() if folder is not None}


def stored_matrix(registry: Registry | None = None) -> Matrix:
    """Return what is stored of the matrix, in all packages together; empty where nothing is.

    :raises UsageError: for a file that is damaged, or of another format.
    """
    parts = [read_matrix(path) for path in matrix_files(registry or Registry.open()).values() if path.is_file()]
    nets = {name: net for part in parts for name, net in part.nets.items()}
    return Matrix(nets, tuple(cell for part in parts for cell in part.cells))


def read_matrix(path: Path) -> Matrix:
    """Read one file.

    :raises UsageError: if it is damaged, or of another format.
    """
    data = read_json(path, RESTORE, sealed=True)
    if data["format"] != FORMAT:
        raise UsageError(f"{path}: format {data['format']}, this version reads {FORMAT}; run condensery matrix again")
    made = [Made(**{**entry, "flags": tuple(entry["flags"])}) for entry in data["made"]]
    cells = [_cell(entry, data, made) for entry in data["cells"]]
    return Matrix({name: NetFacts(**net) for name, net in data["nets"].items()}, tuple(cells))


def _cell(entry: Mapping[str, Any], data: Mapping[str, Any], made: Sequence[Made]) -> Cell:
    net = data["nets"][entry["net"]]
    lists = {name: tuple(entry.get(name, ())) for name in ("methods", "quality", "halves", "collapsed")}
    ran = {"before": net["before"], "bytes_before": net["bytes"]} if lists["quality"] else {}
    line = JOINED[entry["kind"]].join(lists["methods"])
    fixed = {"line": line, **ran, **entry, **lists, "made": made[entry["made"]]}
    return Cell(**{**fixed, "reason": data["reasons"][entry["reason"]] if "reason" in entry else ""})


def write_matrix(path: Path, matrix: Matrix) -> None:
    """Write cells into a file: one a line, sorted, what many share once, so that a refresh changes few lines."""
    cells = sorted(matrix.cells, key=lambda cell: (cell.net, KINDS.index(cell.kind), cell.methods))
    reasons = sorted({cell.reason for cell in cells if cell.reason})
    made = sorted({cell.made for cell in cells if cell.made is not None}, key=lambda made: (made.date, made.commit))

    rows = []
    for cell in cells:
        net = matrix.nets[cell.net]
        follows = {"before": net.before, "bytes_before": net.bytes, "line": JOINED[cell.kind].join(cell.methods)}
        said = {name: value for name, value in dataclasses.asdict(cell).items() if value not in (None, "", ())}
        row = {name: value for name, value in said.items() if name not in follows or value != follows[name]}
        if cell.reason:
            row["reason"] = reasons.index(cell.reason)
        assert cell.made is not None  # a cell that follows from another isn't stored
        rows.append(row | {"made": made.index(cell.made)})

    nets = {name: dataclasses.asdict(net) for name, net in sorted(matrix.nets.items())}
    data = {"format": FORMAT, "made": [dataclasses.asdict(entry) for entry in made], "nets": nets, "reasons": reasons}
    text = _text(json.loads(json.dumps({**data, "cells": rows}, allow_nan=False)))
    write_atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _text(data: Mapping[str, Any]) -> str:
    """Return JSON with one entry of each list a line, and a checksum as every file of ours has."""

    def said(value: Any) -> str:
        if isinstance(value, list) and value:
            return "[\n" + ",\n".join(json.dumps(entry, separators=(",", ":")) for entry in value) + "\n]"
        return json.dumps(value, separators=(",", ":"))

    return (
        "{\n" + ",\n".join(f'"{name}": {said(value)}' for name, value in {**data, SEAL: seal(data)}.items()) + "\n}\n"
    )


def find_net(nets: Iterable[str], name: str) -> str:
    """Return a net's name as the matrix spells it.

    :raises UnknownKey: naming the nearest.
    """
    for net in nets:
        if net.lower() == name.lower():
            return net
    raise UnknownKey("net", name, nets, where="matrix")
