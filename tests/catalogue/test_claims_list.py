"""The list of all claims: none without a line, and where each stands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.catalogue import made_up
from tests.catalogue.made_up import KEY, install, result

from condensery import Registry, UsageError
from condensery_catalogue import claims_list
from condensery_catalogue.claims_list import STANDS, claim_rows, standing
from condensery_catalogue.listing import own_registry
from condensery_catalogue.reproduction import load_reproduction

ROOT = Path(__file__).parents[2]
NUMBER: dict[str, Any] = {"id": "error", "value": {"value": 4.4}}


def test_the_list_is_up_to_date(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert claims_list.main(["--check"]) == 0


def test_each_number_is_compared_at_the_papers_scale_or_says_what_it_lacks_and_never_both() -> None:
    registry = own_registry()
    compared = set()
    for key in registry.keys("recipes"):
        plan = load_reproduction(registry, key)
        for tier in plan.tiers.values():
            found = plan.comparisons(tier, registry.card(plan.card) or {}) if tier.scale == "paper" else []
            compared |= {(plan.card, claim["id"]) for _, claim in found}
    claims = [(key, claim) for key in registry.keys("papers") for claim in (registry.card(key) or {})["claims"]]
    numbers = [(key, c) for key, c in claims if not isinstance(c["value"]["value"], str)]
    assert len(numbers) > 100
    for key, claim in numbers:
        assert ((key, claim["id"]) in compared) != bool(claim.get("lacks")), f"{key}: {claim['id']}"


def test_every_tier_that_counts_estimates_how_long_it_takes() -> None:
    registry = own_registry()
    for key in registry.keys("recipes"):
        for name, tier in load_reproduction(registry, key).tiers.items():
            assert bool(tier.takes) == (name != "smoke"), f"{key}, {name}"


@pytest.mark.parametrize(
    ("lacks", "places", "expected"),
    [
        ("data: ImageNet", [], ("out of reach", "no data here: ImageNet")),
        ("recipe: a longer one", [], ("pending", "no recipe yet: a longer one")),
        ("same: as rate", [], ("answered by another", "as rate")),
        ("", [("pending", "a, paper: 3 hours on one GPU")], ("pending", "a, paper: 3 hours on one GPU")),
        (
            "net: N",
            [("compared scaled-down", "a, desk: gains")],
            ("compared scaled-down", "a, desk: gains; no net here: N"),
        ),
    ],
)
def test_how_a_claim_stands(lacks: str, places: list[tuple[str, str]], expected: tuple[str, str]) -> None:
    assert standing({**NUMBER, "lacks": lacks}, places) == expected


def test_a_number_of_which_nothing_is_known_is_an_error_and_a_statement_is_not() -> None:
    with pytest.raises(
        UsageError, match="claim 'error': no recipe compares it, and its card doesn't say what it lacks"
    ):
        standing(NUMBER, [])
    assert standing({"id": "words", "value": {"value": "better"}}, [])[0] == "statement"


def test_a_strangers_claims_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    claims = [claim | ({"lacks": "net: M"} if claim["id"] == "theirs" else {}) for claim in made_up.CARD["claims"]]
    monkeypatch.setitem(made_up.CARD, "claims", claims)
    measured = result("paper", {"plain": [6.0, 6.2, 6.1], "better": [4.4, 4.6, 4.5]})
    install(tmp_path, "brings_claims", monkeypatch, measured)
    rows = [row for row in claim_rows(Registry.open()) if KEY in row[0]]
    assert [(row[1], row[5]) for row in rows] == [
        ("`error`", "compared"),
        ("`gain`", "compared"),
        ("`theirs`", "out of reach"),
        ("`words`", "statement"),
    ]
    desk = "`made-up`, desk scaled-down: no estimate"
    assert rows[0][6] == f"{desk}; `made-up`, paper: reproduced: a gain, as claimed"
    assert {row[5] for row in claim_rows(own_registry())} <= set(STANDS)
