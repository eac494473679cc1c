"""Running the cells that are left: nothing twice, nothing lost, nothing after the end; and how cells are judged."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from condensery import CondenseryError, Registry, UsageError
from condensery_catalogue.matrix import refreshing
from condensery_catalogue.matrix.cells import read_matrix
from condensery_catalogue.matrix.plan import Planned, pairs
from condensery_catalogue.matrix.refreshing import Book, matrix_of, play_all, publish, refresh_matrix

REGISTRY = Registry.open()
MADE = {"commit": "c", "date": "2026-11-27", "cpu": "p", "flags": [], "torch": "2.14"}
KEYS = ("magnitude", "lsq", "kmeans-sharing")


class Answers:
    """Stands in for a process: quality by the methods of a cell, 90 where nothing is said."""

    said: dict[tuple[str, ...], Any] = {}
    asked: list[Planned] = []
    ended = -11

    def play(self, cell: Planned) -> dict[str, Any] | None:
        self.asked.append(cell)
        found: list[float] | dict[str, Any] | None = self.said.get(cell.methods, [90.0] * cell.seeds)
        if not isinstance(found, list):
            return dict(found) if found is not None else None
        sizes = {"bytes": 10, "bytes_before": 40, "seconds": 0.5, "collapsed": []}
        return {"outcome": "ran", "quality": found, "before": 92.0, "line": cell.title.partition(": ")[2], **sizes}

    def close(self) -> None:
        """There is nothing to end."""


@pytest.fixture(autouse=True)
def answers(monkeypatch: pytest.MonkeyPatch) -> type[Answers]:
    monkeypatch.setattr(refreshing, "Player", Answers)
    Answers.said, Answers.asked = {}, []
    return Answers


def cells(*keys: str, seeds: int = 1) -> list[Planned]:
    return [*(Planned("CNN", "alone", (key,), seeds) for key in keys), *pairs(keys, ["CNN"])]


def played(folder: Path, some: list[Planned], *, jobs: int = 1, until: float | None = None) -> Book:
    book = Book(folder / "cells.jsonl", MADE)
    play_all(some, book, REGISTRY, jobs, until)
    return book


def test_what_the_words_refuse_is_kept_with_the_sentence_and_not_run(tmp_path: Path) -> None:
    """Of the three pairs of each order, lsq after kmeans-sharing has no free weights left, and the other way round."""
    book = played(tmp_path, cells(*KEYS))
    refused = [name for name, entry in book.known.items() if entry["outcome"] == "refused"]
    both = ("lsq", "kmeans-sharing")
    assert refused == [("CNN", "then", both), ("CNN", "then", both[::-1]), ("CNN", "with", both[::-1])]
    assert "no quantizer holds them" in book.known[refused[0]]["reason"]
    assert len(Answers.asked) == len(cells(*KEYS)) - 3


def test_two_in_one_stage_are_turned_round_where_only_that_is_allowed(tmp_path: Path) -> None:
    """jacob-integer-only takes the batch normalizations away that network-slimming needs, so that it comes second."""
    some = [cell for cell in cells("jacob-integer-only", "network-slimming") if cell.kind != "then"]
    played(tmp_path, some)
    assert [cell.title for cell in Answers.asked][2:] == ["CNN: network-slimming + jacob-integer-only"]
    played(tmp_path, some)
    assert len(Answers.asked) == 3


def test_pairs_with_a_method_that_is_refused_alone_are_not_run(tmp_path: Path) -> None:
    Answers.said = {("lsq",): {"outcome": "refused", "reason": "no"}}
    book = played(tmp_path, cells("magnitude", "lsq"))
    assert [cell.title for cell in Answers.asked] == ["CNN: magnitude", "CNN: lsq"]
    found = matrix_of(book.known, REGISTRY)
    assert found.cell("CNN", "then", "magnitude", "lsq").reason == "no"


def test_it_goes_on_where_a_kill_left_it(tmp_path: Path) -> None:
    """A kill may cut off the line that is being written; the cell of that line is run again, and no other."""
    some = cells("magnitude", "lsq")
    played(tmp_path, some)
    path = tmp_path / "cells.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    Answers.asked.clear()

    book = played(tmp_path, some)
    assert [cell.title for cell in Answers.asked] == ["CNN: magnitude + lsq"]
    assert len(book.known) == len(some)
    Answers.asked.clear()
    played(tmp_path, some)
    assert Answers.asked == []


def test_each_cell_is_on_the_disk_before_the_next_one_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = []

    def play(self: Answers, cell: Planned) -> dict[str, Any]:
        path = tmp_path / "cells.jsonl"
        stored.append(len(path.read_text().splitlines()) if path.is_file() else 0)
        return {"outcome": "refused", "reason": "no"}

    monkeypatch.setattr(Answers, "play", play)
    played(tmp_path, cells(*KEYS)[:3])
    assert stored == [0, 1, 2]


def test_more_seeds_than_before_are_run_anew(tmp_path: Path) -> None:
    played(tmp_path, cells("lsq"))
    book = played(tmp_path, cells("lsq", seeds=3))
    assert [cell.seeds for cell in Answers.asked] == [1, 3]
    assert book.known["CNN", "alone", ("lsq",)]["seeds"] == 3


def test_what_failed_is_run_again_by_other_code_only(tmp_path: Path) -> None:
    Answers.said = {("lsq",): {"outcome": "fails", "reason": "KeyError"}}
    played(tmp_path, cells("lsq"))
    played(tmp_path, cells("lsq"))
    assert len(Answers.asked) == 1

    Answers.said = {}
    mended = Book(tmp_path / "cells.jsonl", {**MADE, "commit": "mended"})
    play_all(cells("lsq"), mended, REGISTRY, 1, None)
    assert mended.known["CNN", "alone", ("lsq",)]["outcome"] == "ran"


def test_nothing_is_begun_once_the_budget_is_spent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = time.monotonic()
    assert played(tmp_path, cells(*KEYS), until=begun).known == {}

    def slow(self: Answers, cell: Planned) -> dict[str, Any]:
        time.sleep(0.2)
        return {"outcome": "refused", "reason": "no"}

    monkeypatch.setattr(Answers, "play", slow)
    book = played(tmp_path, cells(*REGISTRY.keys("methods")), jobs=2, until=time.monotonic() + 0.5)
    assert 2 <= len(book.known) <= 2 * 3  # two at a time, begun at 0, 0.2 and 0.4 s


def test_a_process_that_dies_is_a_failure_and_the_next_cell_runs(tmp_path: Path) -> None:
    Answers.said = {("lsq",): None}
    book = played(tmp_path, cells("lsq", "magnitude")[:2])
    assert book.known["CNN", "alone", ("lsq",)]["reason"] == "its process ended with status -11"
    assert book.known["CNN", "alone", ("magnitude",)]["outcome"] == "ran"


def test_a_fault_of_the_command_itself_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Answers, cell: Planned) -> dict[str, Any]:
        raise RuntimeError("a fault")

    monkeypatch.setattr(Answers, "play", broken)
    with pytest.raises(RuntimeError, match="a fault"):
        played(tmp_path, cells("lsq"))


def test_works_and_worse_by_hand(tmp_path: Path) -> None:
    """magnitude has 91, 92, 93, deviation 1; lsq 80, 80, 80, deviation 0, so that what is usual is 0.5.

    The net began at 92. magnitude is at it; lsq is 12 behind. Together they have to reach 92 - 1 - 0.5 = 90.5.
    """
    Answers.said = {
        ("magnitude",): [91.0, 92.0, 93.0],
        ("lsq",): [80.0, 80.0, 80.0],
        ("magnitude", "lsq"): [90.5],
        ("lsq", "magnitude"): [90.4],
    }
    found = matrix_of(played(tmp_path, cells("magnitude", "lsq", seeds=3)).known, REGISTRY)
    outcomes = {c.line: (c.outcome, c.deviation) for c in found.cells}
    assert outcomes["magnitude"] == ("works", 1.0)
    assert outcomes["lsq"] == ("worse", 0.5)
    assert outcomes["magnitude -> lsq"] == ("works", 0.5)
    assert outcomes["lsq -> magnitude"] == ("worse", 0.5)
    pair = found.cell("CNN", "then", "lsq", "magnitude")
    assert (pair.halves, pair.before, pair.bytes, pair.bytes_before) == ((80.0, 92.0), 92.0, 10, 40)


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the file of a checkout that cells are published into; the checkout is the current folder."""
    path = tmp_path / "reproductions" / "matrix.json"
    path.parent.mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(refreshing, "matrix_files", lambda registry: {"package": path})
    return path


def test_publishing_keeps_what_is_not_new_and_drops_what_is_gone(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = played(tmp_path / "one", cells("magnitude", "lsq"))
    publish(matrix_of(first.known, REGISTRY), REGISTRY)

    Answers.said = {("lsq",): [50.0]}
    second = played(tmp_path / "two", cells("lsq"))
    monkeypatch.delitem(REGISTRY.entries["methods"], "magnitude")
    publish(matrix_of(second.known, REGISTRY), REGISTRY)
    (cell,) = read_matrix(published).cells
    assert (cell.methods, cell.quality) == (("lsq",), (50.0,))


def test_publishing_a_few_cells_keeps_what_is_known_of_the_nets_of_others(published: Path, tmp_path: Path) -> None:
    for net in ("CNN", "ViT"):
        book = played(tmp_path / net, [Planned(net, "alone", ("lsq",))])
        publish(matrix_of(book.known, REGISTRY), REGISTRY)
    stored = read_matrix(published)
    assert {name: net.before for name, net in stored.nets.items() if net.before} == {"CNN": 92.0, "ViT": 92.0}
    assert {cell.net for cell in stored.cells} == {"CNN", "ViT"}


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    Answers.said = {("lsq",): {"outcome": "fails", "reason": "x.py:1 in f: g()\nKeyError: 'y'"}}
    refresh_matrix("1m", 1, "CNN: lsq", 0, tmp_path)
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= 80
    assert "fails: CNN: lsq" in said
    assert "KeyError: 'y'" in said

    with pytest.raises(UsageError, match=r"no cell fits 'nothing'; a title is like 'CNN: magnitude -> lsq'"):
        refresh_matrix(None, 1, "nothing", 0, tmp_path)
    with pytest.raises(CondenseryError, match="such as 25m"):
        refresh_matrix("long", 1, None, 0, tmp_path)
