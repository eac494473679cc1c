"""The line that ``show`` prints as a method's own spelling runs, on the first network of its card."""

from __future__ import annotations

from pathlib import Path

import pytest

from condensery import Registry, Run
from condensery.recipe import parse
from condensery.testing import Case, small_recipe
from condensery_catalogue.showing import spelling

REGISTRY = Registry.open()
KEYS = [key for key in sorted(REGISTRY.keys("methods")) if REGISTRY.card(key)]


@pytest.mark.parametrize("key", [*KEYS, "deep-compression"])
def test_what_show_prints_as_the_spelling_runs_dry(key: str, tmp_path: Path) -> None:
    card = REGISTRY.card(key)
    assert card is not None
    case = Case(key, card["network"][0], card)
    what = small_recipe(case.network, parse(spelling(card)), case.contract.nets.get(case.network))
    Run(what, REGISTRY, out=tmp_path / "run").check()
