from __future__ import annotations

import sys

import pytest

from condensery.errors import UsageError
from condensery_catalogue.listing import own_registry
from condensery_catalogue.site.formulas import mathml


def test_each_method_has_a_formula_that_a_browser_can_draw_and_pitfalls() -> None:
    registry = own_registry()
    keys = registry.keys("papers")
    assert len(keys) >= 63
    for key in keys:
        card = registry.card(key) or {}
        drawn = mathml(card["formula"], key)
        lines = card["formula"].strip().splitlines()
        assert drawn.count("<math ") == len(lines), key
        assert len(lines) <= 4, key
        assert len(card["pitfalls"]) >= 2, key
        assert all(text.endswith(".") for text in card["pitfalls"]), key


def test_a_formula_is_drawn_as_blocks_without_a_namespace() -> None:
    made = mathml(r"\frac{a}{b}" + "\n\n" + "a < b\n", "x")
    assert made.count('<math display="block">') == 2
    assert "<mfrac><mrow><mi>a</mi></mrow><mrow><mi>b</mi></mrow></mfrac>" in made
    assert "<mo>&#x0003C;</mo>" in made


@pytest.mark.parametrize(
    ("formula", "said"),
    [
        (r"\text{<script>alert(1)</script>}", "holds more than a formula: script"),
        (r"\text{<img src=x>}", "can't be read"),
        (r"\href{javascript:alert(1)}{x}", "made-up: formula"),
        (r"\style{color: red}{x}", "made-up: formula"),
        (r"\frac{a", "can't be read"),
        (r"a \nosuch b", r"no such command: \\nosuch"),
    ],
)
def test_what_is_no_formula_is_refused_by_the_card_s_key(formula: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        mathml(formula, "made-up")
    assert str(caught.value).startswith("made-up: formula: ")


def test_what_reads_formulas_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "latex2mathml.converter", None)
    with pytest.raises(UsageError, match=r"pip install 'condensery\[site\]'"):
        mathml("a", "made-up")
