"""``condensery matrix``: run what isn't run yet, side by side, and keep each cell as soon as it is known."""

from __future__ import annotations

import dataclasses
import statistics
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from condensery.contract import Registry
from condensery.errors import UsageError
from condensery.files import append_lines, read_lines
from condensery_catalogue.drafting import refused_by_words
from condensery_catalogue.listing import console, open_registry, table
from condensery_catalogue.matrix.cells import (
    KINDS,
    OUTCOMES,
    Cell,
    Made,
    Matrix,
    Name,
    NetFacts,
    matrix_files,
    read_matrix,
    write_matrix,
)
from condensery_catalogue.matrix.plan import NETS, Planned, cell_recipe, chosen, facts_of, planned
from condensery_catalogue.matrix.playing import Player, planned_cell
from condensery_catalogue.pending import seconds_in
from condensery_catalogue.results import CHECKOUT, changed_files, commit

KEPT = "cells.jsonl"
Known = dict[Name, dict[str, Any]]


def refresh_matrix(
    budget: str | None, jobs: int, only: str | None, seed: int, out: Path | None, *, store: bool = False
) -> None:
    """Run the cells that a folder lacks until all are run or the budget is spent, and print what they came to.

    :param budget: ``60m``, ``90s``; ``None``: no end but the work's.
    :param jobs: processes side by side.
    :param only: a pattern of the titles of cells, ``"CNN: * -> lsq"``.
    :param seed: decides in which order pairs beyond the representatives come.
    :param out: keeps what was run; the same command goes on there.
    :param store: put all that is known into the checkout's stored matrix.
    :raises UsageError: for a budget that can't be read, a pattern that fits nothing, and code that no commit holds.
    """
    until = None if budget is None else time.monotonic() + seconds_in(budget)
    if store:
        _refuse_changes()
    registry, folder = open_registry(), out or Path("runs") / "matrix"
    cells = chosen(planned(registry, seed), only)
    if not cells:
        raise UsageError(f"no cell fits {only!r}; a title is like 'CNN: magnitude -> lsq'")

    book = Book(folder / KEPT, made_here())
    play_all(cells, book, registry, jobs, until)
    found = matrix_of(book.known, registry)
    print_matrix(found, sum(not book.has(cell) for cell in cells))
    if store:
        print(f"stored: {publish(found, registry)}")


def _refuse_changes() -> None:
    if not CHECKOUT.is_dir() or (changed := changed_files()) is None:
        raise UsageError("--store: run it in a checkout, so that one can tell what made the cells")
    if changed:
        raise UsageError(f"--store: commit first: {', '.join(changed[:3])}{', ...' if changed[3:] else ''} changed")


def made_here() -> dict[str, Any]:
    """Return the commit, the day and what of the machine decides figures, as plain data."""
    from condensery.measure import environment, versions

    here = environment()
    made = Made(commit() or "", time.strftime("%Y-%m-%d"), here["cpu"], tuple(here["flags"]), versions()["torch"])
    return dataclasses.asdict(made)


class Book:
    """What is known of cells: a file with one of them a line, which a kill at any time leaves readable.

    :param made: is noted with each cell.
    """

    def __init__(self, path: Path, made: Mapping[str, Any]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.made = path, made
        self.known: Known = {}
        for entry in read_lines(path, "remove it to run all cells again"):
            self.known[name_of(planned_cell(entry))] = entry
        self._lock = threading.Lock()

    def has(self, cell: Planned) -> bool:
        """Tell whether a cell needs no run: with fewer seeds than are planned, or where other code failed, it does."""
        entry = self.known.get(name_of(cell))
        if entry is None:
            return False
        if entry["outcome"] == "fails":
            return bool(entry["made"]["commit"] == self.made["commit"])
        return bool(entry["outcome"] == "refused" or entry["seeds"] >= cell.seeds)

    def keep(self, cell: Planned, found: Mapping[str, Any]) -> None:
        """Keep what a cell came to; it is on the disk when this returns."""
        entry = {**dataclasses.asdict(cell), **found, "made": self.made}
        with self._lock:
            append_lines(self.path, [entry])
            self.known[name_of(cell)] = entry

    def outcome_alone(self, net: str, method: str) -> str:
        """Return what a method alone came to on a net, empty where that isn't known."""
        return str(self.known.get((net, "alone", (method,)), {}).get("outcome", ""))


def name_of(cell: Planned | Cell) -> Name:
    """Return what tells a cell from all others: of two methods in one stage, not which one comes first."""
    return cell.net, cell.kind, tuple(sorted(cell.methods)) if cell.kind == "with" else cell.methods


# ---------------------------------------------------------------- playing


def play_all(cells: Sequence[Planned], book: Book, registry: Registry, jobs: int, until: float | None) -> None:
    """Run the cells that a book lacks, in order: methods alone, and when all of these are known, pairs of them."""
    from condensery.run import Progress

    left = [cell for cell in cells if not book.has(cell)]
    with Progress() as show:
        show.start("cells", len(left))
        for pairs in (False, True):
            some = iter([cell for cell in left if (cell.kind != "alone") == pairs])
            _side_by_side(_Shared(some, book, registry, show), jobs, until)


class _Shared:
    """The cells that are left, for several threads; what needs no run is said at once.

    A pair of which one method is refused alone follows from that, and one that the words refuse is refused.
    """

    def __init__(self, cells: Iterator[Planned], book: Book, registry: Registry, show: Any) -> None:
        self.book, self._cells, self._registry, self._show = book, cells, registry, show
        self._lock = threading.Lock()

    def take(self) -> Planned | None:
        """Return the next cell to run, ``None`` at the end."""
        with self._lock:
            for cell in self._cells:
                self._show.advance()
                if cell.kind == "alone":
                    return cell
                if any(self.book.outcome_alone(cell.net, method) != "ran" for method in cell.methods):
                    continue
                turned, why = self._in_order(cell)
                if not why:
                    return turned
                self.book.keep(cell, {"outcome": "refused", "reason": why})
        return None

    def _in_order(self, cell: Planned) -> tuple[Planned, str]:
        """Return a cell, its methods turned round where they act in one stage and only that is allowed; and why not."""
        why = refused_by_words(cell_recipe(cell, self._registry), self._registry)
        if why and cell.kind == "with":
            turned = dataclasses.replace(cell, methods=cell.methods[::-1])
            if not refused_by_words(cell_recipe(turned, self._registry), self._registry):
                return turned, ""
        return cell, why


def _side_by_side(shared: _Shared, jobs: int, until: float | None) -> None:
    """Run cells in several processes, each with a thread that waits for it, until none is left or time is up."""
    stop = threading.Event()
    players: list[Player] = []
    wrong: list[BaseException] = []

    def work() -> None:
        try:
            player: Player | None = None
            while not stop.is_set() and (until is None or time.monotonic() < until):
                cell = shared.take()
                if cell is None:
                    return
                if player is None:
                    player = Player()
                    players.append(player)

                found = player.play(cell)
                # A process that ended without having been asked to broke on its cell.
                if found is None and not stop.is_set():
                    found = {"outcome": "fails", "reason": f"its process ended with status {player.ended}"}
                    player = None
                if found is not None:
                    shared.book.keep(cell, found)
        except BaseException as error:  # noqa: BLE001  raised again where the command waits
            wrong.append(error)
            stop.set()

    threads = [threading.Thread(target=work, daemon=True) for _ in range(jobs)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        stop.set()
        for player in players:
            player.close()
    if wrong:
        raise wrong[0]


# ---------------------------------------------------------------- judging


def matrix_of(known: Known, registry: Registry) -> Matrix:
    """Return the matrix that raw cells make: each compared with what it is to be compared with."""
    nets = {name: _facts(name, known, registry) for name in NETS}
    usual = {name: _usual_deviation(name, known) for name in nets}
    cells = [_judged(entry, known, nets[entry["net"]], usual[entry["net"]]) for entry in known.values()]
    return Matrix(nets, tuple(cells))


def _facts(net: str, known: Known, registry: Registry) -> NetFacts:
    """Return what is known of a net; one that looks at held-out examples begins with another."""
    ran = [entry for entry in known.values() if entry["net"] == net and entry["outcome"] == "ran"]
    facts = facts_of(net, registry)
    if not ran:
        return facts
    before, size = (statistics.mode(entry[name] for entry in ran) for name in ("before", "bytes_before"))
    return dataclasses.replace(facts, before=before, bytes=size)


def _usual_deviation(net: str, known: Known) -> float:
    """Return the median over the methods alone of their sample standard deviations on a net."""
    some = [entry for name, entry in known.items() if name[:2] == (net, "alone")]
    found: list[list[float]] = [entry["quality"] for entry in some if "quality" in entry]
    return statistics.median([statistics.stdev(quality) for quality in found if len(quality) > 1] or [0.0])


def _deviation(entry: Mapping[str, Any], usual: float) -> float:
    """Return the sample standard deviation over a cell's seeds; two of them may agree by chance, as no net does."""
    quality: Sequence[float] = entry["quality"]
    return max(usual, statistics.stdev(quality) if len(quality) > 1 else 0.0)


def _judged(entry: Mapping[str, Any], known: Known, net: NetFacts, usual: float) -> Cell:
    """Return a cell with its outcome.

    It is worse where it falls behind the better half by more than the deviations of both together; the better half of a
    method alone is the net as it was, which has none.
    """
    cell = planned_cell(entry)
    made = Made(**{**entry["made"], "flags": tuple(entry["made"]["flags"])})
    line = entry.get("line", cell.title.partition(": ")[2])
    said: dict[str, Any] = {"line": line, "reason": entry.get("reason", ""), "made": made}
    if entry["outcome"] != "ran":
        return Cell(cell.net, cell.kind, cell.methods, entry["outcome"], **said)

    sign = 1 if net.higher else -1
    halves = [known[cell.net, "alone", (method,)] for method in cell.methods] if cell.kind != "alone" else []
    others = [(sign * statistics.fmean(half["quality"]), _deviation(half, usual)) for half in halves]
    best, its = max(others, default=(sign * entry["before"], 0.0))
    own = _deviation(entry, usual)
    behind = best - sign * statistics.fmean(entry["quality"])

    return Cell(
        cell.net,
        cell.kind,
        cell.methods,
        "worse" if behind > own + its else "works",
        quality=tuple(_rounded(value) for value in entry["quality"]),
        before=entry["before"],
        halves=tuple(_rounded(sign * mean) for mean, _ in others),
        deviation=_rounded(own),
        bytes=entry["bytes"],
        bytes_before=entry["bytes_before"],
        seconds=entry["seconds"],
        collapsed=tuple(entry["collapsed"]),
        **said,
    )


def _rounded(value: float) -> float:
    return round(value, 4)


# ---------------------------------------------------------------- what was reached


def publish(found: Matrix, registry: Registry) -> Path:
    """Put cells into the checkout's stored matrix, in the place of older ones; return its file.

    Cells of methods and nets that aren't there any more go.
    """
    path = next(path for path in matrix_files(registry).values() if path.resolve().is_relative_to(CHECKOUT.resolve()))
    old = read_matrix(path) if path.is_file() else Matrix()
    new, keys = {name_of(cell) for cell in found.cells}, set(registry.keys("methods"))
    kept = [cell for cell in old.cells if name_of(cell) not in new]
    kept = [cell for cell in kept if cell.net in found.nets and keys.issuperset(cell.methods)]

    nets = {name: net if net.before is not None else old.nets.get(name, net) for name, net in found.nets.items()}
    write_matrix(path, Matrix(nets, (*found.cells, *kept)))
    return path


def print_matrix(found: Matrix, left: int) -> None:
    """Print how many cells came to what, and the faults.

    :param left: how many that were asked for aren't known; some of them follow from others.
    """
    out = console()
    said = table("net", "what", *OUTCOMES[:-1], title=f"{len(found.cells):,} cells known, {left:,} left")
    for net in found.nets:
        for kind in KINDS:
            counted = found.counts(net, kind)
            if counted:
                said.add_row(net, kind, *(str(counted[outcome]) for outcome in OUTCOMES[:-1]))
    out.print(said)
    for cell in found.cells:
        if cell.outcome == "fails":
            out.print(f"fails: {cell.net}: {cell.line}\n{cell.reason}", markup=False, highlight=False, soft_wrap=True)
