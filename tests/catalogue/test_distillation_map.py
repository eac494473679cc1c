"""The map of distillation: every method that a card places, and no word that cards don't have."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from condensery.contract import Taxonomy
from condensery_catalogue import distillation_map
from condensery_catalogue.distillation_map import KNOWLEDGE, SCHEMES, STUDENTS, distillation_page, map_rows, placed
from condensery_catalogue.listing import own_registry

ROOT = Path(__file__).parents[2]


def test_the_page_is_up_to_date(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert distillation_map.main(["--check"]) == 0


def test_a_method_stands_in_each_cell_that_its_card_says_and_in_no_other() -> None:
    words = {"knowledge": ["output", "relation"], "scheme": "self", "student_source": ["same"]}
    rows = map_rows({"one": {"taxonomy": words, "ref": 7}})
    assert len(rows) == 12
    assert [row[1].split(":")[0] for row in rows if "`one` [7]" in row] == ["`output`", "`relation`"]
    assert all(row[0].startswith("`self`") and row.index("`one` [7]") == 6 for row in rows if "`one` [7]" in row)
    assert sum(row.count("`one` [7]") for row in rows) == 2


def test_every_distillation_method_is_placed() -> None:
    registry = own_registry()
    cards = placed(registry)
    family = {key for key in registry.keys("papers") if (registry.card(key) or {})["family"] == "distillation"}
    assert len(family) > 9
    assert family <= set(cards)
    page = distillation_page(registry)
    cells = page.split("## Each method")[0]
    assert not [key for key in cards if f"`{key}`" not in cells]


@pytest.mark.parametrize(
    ("field", "words"), [("knowledge", KNOWLEDGE), ("scheme", SCHEMES), ("student_source", STUDENTS)]
)
def test_the_words_are_the_cards(field: str, words: dict[str, str]) -> None:
    hint = Taxonomy.model_fields[field].annotation
    literal = get_args(hint)[0]
    assert set(get_args(literal) or [literal]) == set(words)
