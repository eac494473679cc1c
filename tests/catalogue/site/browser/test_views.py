"""Views of the front, and methods side by side."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

import pytest
from tests.catalogue.site.browser.conftest import Visits

pytestmark = pytest.mark.browser


@pytest.mark.parametrize("place", ["disk", "server"])
def test_a_view_goes_into_the_address_and_back(visit: Visits, place: str) -> None:
    page = visit(place)
    page.goto("index.html")
    assert page.locator("#table").is_visible()
    assert not page.locator("#tree").is_visible()

    page.get_by_role("link", name="tree", exact=True).click()
    assert parse_qs(urlsplit(page.url).query) == {"view": ["tree"]}
    assert page.locator("#tree").is_visible()
    assert not page.locator("#methods").is_visible()
    assert page.locator(".views [aria-current]").inner_text() == "tree"

    page.go_back()
    assert page.locator("#methods").is_visible()
    page.goto("index.html#figures")
    assert page.locator("#figure-6").is_visible()


def test_a_filter_acts_on_the_tree_and_the_figures_too(visit: Visits) -> None:
    page = visit()
    page.goto("index.html?view=tree&family=distillation")
    tops = page.locator("#tree > details:visible > summary")
    assert tops.count() == 1
    assert tops.inner_text().startswith("distillation")
    shown = page.locator("#tree [data-row]:visible")
    keys = set(shown.evaluate_all("rows => rows.map((row) => row.dataset.row)"))
    assert {"hinton-kd", "fitnets"} <= keys
    assert tops.locator("output").inner_text() == str(len(keys))

    page.goto("index.html?view=figures&q=qkd")
    shown = page.locator("#figures [data-row]:visible")
    assert set(shown.evaluate_all("rows => rows.map((row) => row.dataset.row)")) == {"qkd"}


def test_words_that_mean_nothing_stay_in_sight(visit: Visits) -> None:
    page = visit()
    page.goto("index.html?view=tre&sort=yer&granularity=chanel&famly=x")
    said = page.locator("#chips").inner_text()
    for told in ("no such view: tre; nearest: tree", "nearest: year", "nearest: channel", "nearest: family"):
        assert told in said
    page.goto("results.html?verdict=reproducd&tier=paper")
    assert "nearest: reproduced" in page.locator("#chips").inner_text()
    assert page.locator("#answers tbody tr:visible").count() >= 10


def test_methods_stand_side_by_side_as_the_address_says(visit: Visits) -> None:
    page = visit()
    page.goto("compare.html")
    assert page.locator("#compared").is_visible()
    page.goto("compare.html?m=obd,obs,nosuch")
    assert not page.locator("#compared").is_visible()
    assert "nearest: " in page.locator("#chips").inner_text()
    heads = page.locator("#beside thead th")
    assert heads.all_inner_texts() == ["method", "Optimal Brain Damage", "Optimal Brain Surgeon"]
    words = page.locator("#beside .run").all_inner_texts()
    assert any(word.endswith("(within noise)") for word in words), words

    page.get_by_label("3").select_option("magnitude")
    assert parse_qs(urlsplit(page.url).query) == {"m": ["obd,obs,magnitude"]}
    assert "Magnitude pruning" in heads.all_inner_texts()
    page.go_back()
    assert "Magnitude pruning" not in heads.all_inner_texts()


def test_the_comparison_stands_without_an_address(visit: Visits) -> None:
    page = visit()
    page.goto("compare.html")
    assert page.locator("#every").is_visible()
    assert not page.locator("#beside").is_visible()
