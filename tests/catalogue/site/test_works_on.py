from __future__ import annotations

from tests.catalogue.matrix.made import cell, matrix

from condensery_catalogue.matrix import Matrix
from condensery_catalogue.site.works_on import works_on


def test_a_row_tells_alone_and_pairs_by_place() -> None:
    first, second = works_on(matrix(), "cut")
    assert (first.net, first.alone.outcome, first.alone.after) == ("CNN", "works", 88.0)
    assert (first.first, first.second, first.beside) == ({"worse": 1}, {"worse": 1}, {"refused": 1})
    assert first.best is None
    assert (second.net, second.alone.outcome, second.alone.reason) == ("LSTM", "refused", "the net has no convolution")
    assert (second.first, second.second, second.beside) == ({}, {}, {})
    assert works_on(matrix(), "other") == []


def test_the_pair_that_works_with_the_fewest_bytes_is_named() -> None:
    made = matrix()
    more = (cell("then", "cut", "a", quality=(90.0,), bytes=90), cell("with", "b", "cut", quality=(90.0,), bytes=80))
    found, _ = works_on(Matrix(made.nets, (*made.cells, *more)), "cut")
    assert found.best is not None
    assert found.best.methods == ("b", "cut")
    assert found.first == {"works": 1, "worse": 1}
