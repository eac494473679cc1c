"""What the order of two methods does: made-up cells with differences that are worked out by hand."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import pytest
from tests.catalogue.matrix.made import MADE, cell, matrix

from condensery import Registry
from condensery_catalogue.matrix import Matrix, one_way, orders, page, surprises
from condensery_catalogue.matrix.orders import NO_DIFFERENCE, costs_less, saves_less, weaker_first, which_first
from condensery_catalogue.matrix.page import matrix_page


def test_a_difference_counts_beyond_both_deviations() -> None:
    """80 against 76 with 0.5 and 0.5: 4 > 1; with 2 and 2 it is 4, which is not more than 4."""
    (order,) = orders(matrix())
    assert (order.cell.methods, order.better, order.margin, order.counts) == (("cut", "round"), 4.0, 1.0, True)
    assert surprises(matrix()) == [order]

    loose = [dataclasses.replace(c, deviation=2.0) if c.kind == "then" else c for c in matrix().cells]
    assert surprises(Matrix(matrix().nets, tuple(loose))) == []


def test_where_less_is_better_the_other_order_is_the_better_one() -> None:
    nets = {name: dataclasses.replace(net, higher=False) for name, net in matrix().nets.items()}
    (order,) = orders(Matrix(nets, matrix().cells))
    assert order.first == "round"


def test_one_way_pairs_ran_where_the_other_order_is_refused() -> None:
    cells = [c for c in matrix().cells if c.methods != ("round", "cut")]
    turned = Matrix(matrix().nets, (*cells, cell("then", "round", "cut", reason="too late")))
    assert [c.line for c in one_way(turned)] == ["cut -> round"]
    assert orders(turned) == []
    assert one_way(matrix()) == []


def test_the_weaker_step_first() -> None:
    """Cut costs 2 points and leaves 500 bytes, round costs 10 and leaves 250: by both, cut is the weaker."""
    made = matrix()
    cut, rounded = (made.cell("CNN", "alone", method) for method in ("cut", "round"))
    assert costs_less(made, cut, rounded) is True
    assert saves_less(made, cut, rounded) is True
    assert costs_less(made, rounded, cut) is False
    assert costs_less(made, cut, dataclasses.replace(cut, quality=(87.5,))) is None
    assert saves_less(made, cut, dataclasses.replace(cut, bytes=460)) is None
    assert weaker_first(made, orders(made), costs_less) == Counter(holds=1)


def test_which_of_two_groups_comes_first() -> None:
    assert which_first(orders(matrix()), ["cut"], ["round"]) == Counter(first=1)
    assert which_first(orders(matrix()), ["round"], ["cut"]) == Counter(second=1)
    loose = tuple(dataclasses.replace(c, deviation=2.0) if c.kind == "then" else c for c in matrix().cells)
    assert which_first(orders(Matrix(matrix().nets, loose)), ["cut"], ["round"]) == Counter({NO_DIFFERENCE: 1})


def test_the_page_says_all_of_it() -> None:
    text = matrix_page(Registry.open(), matrix())
    assert "| CNN | A, then B | 0 | 2 | 0 | 0 | - | - |" in text
    assert "1 pairs ran in both orders. Of 1 the order makes a difference" in text
    assert "| CNN | `cut -> round` | 80.0 ± 0.5 | 76.0 ± 0.5 | +4.0 |" in text
    assert "| costs less of the main figure | 1 | 0 | 0 |" in text
    assert f"commit {MADE.commit[:12]}" in text
    assert "the net has no convolution" in text


def test_the_kept_page_is_up_to_date(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[3])
    assert page.main(["--check"]) == 0
