from __future__ import annotations

import json
from typing import Any

import pytest
from tests.catalogue.site.matrices import METHODS, large, small

from condensery_catalogue.matrix import Cell, Matrix
from condensery_catalogue.site.building import Writer
from condensery_catalogue.site.matrix_page import Page, joined, matrix_counts, said_of

PAGE = 400_000
"""Bytes that one page may have."""


def written(page: Page) -> str:
    write = Writer({})
    write.page("matrix.html", "matrix.html", page=page)
    return write.written["matrix.html"]


def signs(page: Page, name: str) -> dict[str, list[str]]:
    """Return what the cells of a table say, by row."""
    (table,) = [table for table in page.tables if table["id"] == name]
    return {key: str(cells).split("<td>")[1:] for key, cells in table["rows"]}


def script(page: Page) -> dict[str, Any]:
    return dict(json.loads(page.data.removeprefix("window.MATRIX = ").removesuffix(";\n")))


def test_each_cell_says_what_it_came_to() -> None:
    page = Page(small(), METHODS)
    # By family as everywhere: pruning, quantization, distillation, joint.
    assert page.keys == ["alpha", "beta", "gamma", "delta"]
    assert signs(page, "nets") == {
        "alpha": ["ok 93.0 → 92.5 ± 0.4", "ok 88.0 → 87.5 ± 0.4"],
        "beta": ["ok 93.0 → 91.0 ± 0.4", "ok 88.0 → 86.0 ± 0.4"],
        "gamma": ["ok 93.0 → 93.5 ± 0.4", "."],
        "delta": ["~ 93.0 → 50.0 ± 0.4", "-3"],
    }
    # On the diagonal each stands alone; the order of alpha and beta makes a difference, both ways.
    assert signs(page, "then-CNN") == {
        "alpha": ["ok", "ok!", ".", "."],
        "beta": ["~!", "ok", ".", "."],
        "gamma": [".", ".", "ok", "x2"],
        "delta": [".", "-1", "-1", "~"],
    }
    # In one stage the order makes none.
    assert signs(page, "with-CNN")["beta"] == [".", "ok", "ok", "."]
    assert signs(page, "with-CNN")["gamma"] == [".", "ok", "ok", "."]
    assert [table["id"] for table in page.tables] == ["nets", "then-CNN", "with-CNN"]


def test_notes_are_the_refusals_own_sentences_with_a_and_b_for_the_methods() -> None:
    page = Page(small(), METHODS)
    taken = "{B} is not applicable: stage '{B}' lacks <b>weights</b> ({A} in stage '{A}' took them away)"
    assert page.notes == [
        (taken, 2),
        ("x.py:1 in f: g()\nValueError: no", 1),
        ("{A} is not applicable: stage '{A}' lacks attention layers (there are none here)", 1),
    ]
    assert '<li id="note-1">B is not applicable: stage &#39;B&#39; lacks &lt;b&gt;weights' in written(page)


def test_a_pair_with_a_method_that_is_refused_alone_shares_its_note() -> None:
    cells = (*small().cells, Cell("ViT", "then", ("alpha", "beta"), "fails", reason="boom"))
    page = Page(Matrix(small().nets, cells), METHODS)
    rows = signs(page, "then-ViT")
    number = rows["delta"][3]
    assert rows["delta"] == [number] * 4
    (b,) = {rows[key][3] for key in ("alpha", "beta", "gamma")}
    assert b[0] == number[0] == "-"
    # Row and column aren't the same note: one speaks of A, the other of B.
    assert page.notes[int(number[1:]) - 1][0].startswith("{A} is")
    assert page.notes[int(b[1:]) - 1][0].startswith("{B} is")


@pytest.mark.parametrize(
    ("reason", "methods", "said"),
    [
        ("lsq-x and lsq, lsq+x", ("lsq", "x"), "lsq-x and {A}, {A}+{B}"),
        ("pre-lsq 'lsq#2'", ("lsq",), "pre-lsq '{A}#2'"),
        ("", ("lsq",), ""),
    ],
)
def test_only_whole_names_of_methods_are_replaced(reason: str, methods: tuple[str, ...], said: str) -> None:
    assert said_of(reason, *methods) == said


def test_lines_of_pairs_follow_from_those_of_their_methods() -> None:
    assert joined("then", "x -> a(n=1)", "y -> b{teacher=original}") == "x -> a(n=1) -> b{teacher=original}"
    assert joined("with", "a{teacher=original}", "b(n=1)") == "a + b(n=1){teacher=original}"
    assert joined("with", "a", "y -> b(n=1){teacher=x}") == "a + b(n=1){teacher=x}"


def test_the_script_knows_the_figures_of_the_cells_that_ran() -> None:
    page, matrix = Page(small(), METHODS), small()
    data = script(page)
    assert data["made"] == [
        ["0123456789ab", "2026-11-27", "a CPU", "2.13"],
        ["fedcba987654", "2026-11-28", "a CPU", "2.13"],
    ]
    cells = data["cells"]["CNN"]
    # row, after, seeds, deviation, bytes, seconds, made, line, layers that died
    assert [1, 91.0, 2, 0.35, 40_000, 1.25, 1, "beta(bits=4)"] in cells["alone"]
    assert [3, 50.0, 2, 0.35, 40_000, 1.25, 0, 0, "conv1"] in cells["alone"]
    # row, column, after, seeds, deviation, both alone, bytes, seconds, made; its line follows from theirs
    assert [0, 1, 92.0, 2, 0.35, 92.5, 91.0, 40_000, 1.25, 0, 0] in cells["then"]
    assert cells["with"] == [[2, 1, 92.25, 2, 0.35, 92.5, 91.0, 40_000, 1.25, 0, 0]]
    assert sum(len(kind) for net in data["cells"].values() for kind in net.values()) == sum(c.ran for c in matrix.cells)
    assert data["nets"]["CNN"]["before"] == 93.0
    assert "<" not in page.data


def test_a_line_that_does_not_follow_is_kept() -> None:
    cells = [cell for cell in small().cells if cell.kind != "with"]
    odd = Cell(**{**vars(small().cells[-1]), "line": "gamma(T=2) + beta"})
    page = Page(Matrix(small().nets, (*cells, odd)), METHODS)
    assert script(page)["cells"]["CNN"]["with"][0][10] == "gamma(T=2) + beta"


def test_counts_of_cells_for_other_pages() -> None:
    matrix = small()
    # Four methods on two nets alone; on the one net that has pairs 12 ordered ones and 6 in one stage.
    assert matrix_counts(matrix, 4) == {
        "run": 9,
        "of": 26,
        "outcomes": {"works": 7, "worse": 2, "refused": 3, "fails": 1},
        "date": "2026-11-28",
    }
    assert matrix_counts(Matrix(), 4) == {"run": 0, "of": 0, "outcomes": {}, "date": ""}


def test_a_page_of_a_matrix_that_is_empty_says_so() -> None:
    page = Page(Matrix(), METHODS)
    assert "Nothing is stored yet" in written(page)
    assert script(page)["cells"] == {}


def test_the_page_of_the_whole_catalogue_is_small() -> None:
    matrix, methods = large(63)
    page = Page(matrix, methods)
    text = written(page)
    assert text.count("<td>") == 63 * 3 + 63 * 63 * 2 * 3
    assert sum(cell.ran for cell in matrix.cells) > 2000
    assert len(text.encode()) < PAGE
    assert len(page.data.encode()) < PAGE
