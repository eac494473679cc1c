"""The stored cells: what a file keeps, how one is looked up, what follows from others."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path

import pytest
from tests.catalogue.matrix.made import cell, matrix

from condensery import CondenseryError, Registry
from condensery_catalogue.matrix import KINDS, OUTCOMES, Matrix, stored_matrix
from condensery_catalogue.matrix.cells import matrix_files, read_matrix, write_matrix


def test_a_file_gives_the_same_cells_back(tmp_path: Path) -> None:
    path, made = tmp_path / "matrix.json", matrix()
    write_matrix(path, made)
    found = read_matrix(path)
    assert set(found.cells) == set(made.cells)
    assert found.nets == made.nets

    # One a line, sorted, and the same bytes however the cells came.
    text = path.read_text()
    assert sum(line.startswith('{"net"') for line in text.splitlines()) == len(made.cells)
    write_matrix(path, type(made)(made.nets, made.cells[::-1]))
    assert path.read_text() == text


def test_a_cell_with_another_net_to_begin_with_says_so(tmp_path: Path) -> None:
    """As of a method that looks at held-out examples: the net was trained on the others."""
    path, made = tmp_path / "matrix.json", matrix()
    other = cell("alone", "third", quality=(85.0,), bytes=300)
    write_matrix(path, Matrix(made.nets, (*made.cells, dataclasses.replace(other, before=89.0))))
    found = read_matrix(path)
    assert found.cell("CNN", "alone", "third").before == 89.0
    assert found.cell("CNN", "alone", "cut").before == 90.0
    assert path.read_text().count('"before":') == len(made.nets) + 1


def test_an_edited_file_and_one_of_another_format_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "matrix.json"
    write_matrix(path, matrix())
    edited = json.loads(path.read_text())
    edited["cells"][0]["bytes"] = 1
    path.write_text(json.dumps(edited))
    with pytest.raises(CondenseryError, match=r"matrix\.json: damaged .*checksum"):
        read_matrix(path)


def test_a_cell_is_looked_up_by_net_kind_and_methods() -> None:
    made = matrix()
    assert made.cell("CNN", "then", "cut", "round").after == 80.0
    assert made.cell("CNN", "then", "round", "cut").after == 76.0
    both = made.cell("CNN", "with", "round", "cut")  # the order makes no difference there
    assert (both.outcome, both.reason) == ("refused", "both implement batches")


def test_a_pair_follows_from_a_method_that_is_refused_alone() -> None:
    made = matrix()
    assert made.cell("LSTM", "then", "round", "cut").reason == "the net has no convolution"
    assert made.cell("LSTM", "then", "round", "cut").made is None
    assert made.cell("CNN", "then", "cut", "cut").outcome == "not run"
    assert made.cell("LSTM", "alone", "other").outcome == "not run"


def test_counts_and_notes() -> None:
    made = matrix()
    assert made.methods == ["cut", "round"]
    assert made.counts("CNN") == Counter(works=2, worse=2, refused=1)
    assert made.counts(kind="alone") == Counter(works=3, refused=1)
    assert [c.net for c in made.some(method="round", kind="alone")] == ["CNN", "LSTM"]

    twice = type(made)(
        made.nets, (*made.cells, cell("alone", "third", net="LSTM", reason="the net has no convolution"))
    )
    assert twice.notes == {"the net has no convolution": 1, "both implement batches": 2}


def test_what_is_stored_holds_together() -> None:
    """Each cell names a net and methods that there are; what ran has figures that numbers can be."""
    registry = Registry.open()
    stored = stored_matrix(registry)
    keys = set(registry.keys("methods"))
    assert len(stored.cells) >= 20
    assert sum(path.stat().st_size for path in matrix_files(registry).values() if path.is_file()) < 1_000_000

    for one in stored.cells:
        assert one.net in stored.nets, one
        assert one.kind in KINDS, one
        assert one.outcome in OUTCOMES, one
        assert keys.issuperset(one.methods), one
        assert one.made is not None, one
        assert one.ran == (one.outcome in ("works", "worse")), one
        assert one.ran or one.reason, one
        assert not one.ran or (one.bytes and one.bytes_before and len(one.halves) in (0, 2)), one
    for net in stored.nets.values():
        assert net.before is None or net.before > 2 * net.chance, net  # before means something
