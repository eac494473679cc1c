"""The browse page: search, facets, the address, Back, keys, what one takes along."""

from __future__ import annotations

import csv
import json
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
from tests.catalogue.site.browser.conftest import Visits

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser

NAMES = "[...new Set([...document.querySelectorAll('#filters [type=checkbox]')].map((box) => box.name))]"
"""The facets that the page offers."""
COUNTS = """(name) => [...document.querySelectorAll(`input[name="${name}"]`)].map((box) =>
  [box.value, Number(box.parentElement.querySelector("output").textContent)])"""
"""The count beside each word of a facet."""
SHOWN = "[...document.querySelectorAll('#methods tbody tr:not([hidden])')].map((row) => row.dataset.key)"


@pytest.fixture(scope="module")
def facets(site: Path) -> dict[str, dict[str, list[str]]]:
    """Return the words of each method by facet, as the page holds them; the script has no part in it."""
    found = {}

    class Rows(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            said = dict(attrs)
            if tag == "tr" and said.get("data-key"):
                found[str(said["data-key"])] = json.loads(str(said["data-facets"]))

    Rows().feed((site / "index.html").read_text(encoding="utf-8"))
    assert len(found) >= 60
    return found


def shown(page: Page) -> list[str]:
    """Return the keys of the methods in the list, from top to bottom."""
    return list(page.evaluate(SHOWN))


def chosen(page: Page) -> dict[str, list[str]]:
    """Return the words in the address by facet."""
    query = parse_qs(urlsplit(page.url).query)
    return {name: [word for said in values for word in said.split(",")] for name, values in query.items()}


@pytest.mark.parametrize(
    ("words", "key"),
    [
        ("quantization-aware knowledge dist", "qkd"),
        ("kim qkd", "qkd"),
        ("[36]", "lsq"),
        ("滤波器剪枝", "l1-filter-pruning"),
        ("lsq", "lsq"),
        ("HINTON 2015", "hinton-kd"),
    ],
)
@pytest.mark.parametrize("place", ["disk", "server"])
def test_a_search_finds_and_stays_in_the_address(visit: Visits, place: str, words: str, key: str) -> None:
    page = visit(place)
    page.goto("index.html")
    every = len(shown(page))
    page.get_by_label("Search", exact=True).fill(words)
    found = shown(page)
    assert key in found
    assert 0 < len(found) < every / 2
    assert parse_qs(urlsplit(page.url).query) == {"q": [words]}

    page.reload()
    assert shown(page) == found
    assert page.get_by_label("Search", exact=True).input_value() == words


def test_what_nothing_matches_leaves_nothing(visit: Visits) -> None:
    page = visit()
    page.goto("index.html?q=xyzzy")
    assert shown(page) == []
    assert "0 of" in page.locator("#shown").inner_text()


def test_each_facet_goes_from_the_address_into_the_page(visit: Visits, facets: dict[str, Any]) -> None:
    page = visit()
    names = {name for words in facets.values() for name in words}
    assert {"family", "granularity", "network", "year", "verdict"} <= names
    for name in sorted(names):
        counted = Counter(word for words in facets.values() for word in words.get(name, ()))
        words = sorted(counted)[:2]
        page.goto(f"index.html?{urlencode([(name, word) for word in words])}")
        assert set(shown(page)) == {key for key, said in facets.items() if set(words) & set(said.get(name, ()))}
        assert page.locator(".unknown").count() == 0
        for word in words:
            assert page.locator(f'input[name="{name}"][value="{word}"]').is_checked(), (name, word)
        assert dict(page.evaluate(COUNTS, name)) == counted, name


def test_each_word_goes_from_the_page_into_the_address_and_back_undoes_it(
    visit: Visits, facets: dict[str, Any]
) -> None:
    page = visit()
    page.goto("index.html")
    every = shown(page)
    page.evaluate("for (const details of document.querySelectorAll('#filters details')) details.open = true")
    names = page.evaluate(
        "[...new Set([...document.querySelectorAll('#filters [type=checkbox]')].map((box) => box.name))]"
    )
    assert set(names) == {name for words in facets.values() for name in words}
    for name in names:
        box = page.locator(f'input[name="{name}"]').last
        word = box.get_attribute("value")
        box.click()
        assert parse_qs(urlsplit(page.url).query) == {name: [word]}
        assert set(shown(page)) == {key for key, said in facets.items() if word in said.get(name, ())}
        page.go_back()
        assert urlsplit(page.url).query == ""
        assert shown(page) == every
        assert not box.is_checked()


def test_facets_narrow_and_words_of_one_widen(visit: Visits, facets: dict[str, Any]) -> None:
    page = visit()
    page.goto("index.html?family=pruning,quantization&network=ViT")
    assert set(shown(page)) == {
        key
        for key, said in facets.items()
        if {"pruning", "quantization"} & set(said["family"]) and "ViT" in said.get("network", ())
    }
    page.go_back()
    page.goto("index.html?year=2015-2016")
    assert set(shown(page)) == {key for key, said in facets.items() if {"2015", "2016"} & set(said.get("year", ()))}


def test_back_walks_through_choices_but_not_through_letters(visit: Visits) -> None:
    page = visit()
    page.goto("coverage.html")
    page.goto("index.html")
    page.get_by_label("Search", exact=True).press_sequentially("prun")
    page.goto("index.html?q=prun")
    page.evaluate("document.querySelector('input[name=family][value=pruning]').click()")
    page.evaluate("document.querySelector('[data-sort=year] button').click()")
    assert chosen(page) == {"q": ["prun"], "family": ["pruning"], "sort": ["year"]}
    page.go_back()
    assert chosen(page) == {"q": ["prun"], "family": ["pruning"]}
    page.go_forward()
    assert chosen(page)["sort"] == ["year"]
    page.go_back()
    page.go_back()
    assert chosen(page) == {"q": ["prun"]}


@pytest.mark.parametrize("place", ["disk", "server"])
def test_words_that_mean_nothing_stay_visible(visit: Visits, place: str) -> None:
    page = visit(place)
    page.goto("index.html?granularity=chanel&famly=pruning&q=prun")
    said = page.locator("#chips").inner_text()
    assert "no such granularity: chanel; nearest: channel" in said
    assert "no such facet: famly; nearest: family" in said
    page.evaluate("document.querySelector('input[name=year]').click()")
    assert {"granularity": ["chanel"], "famly": ["pruning"]}.items() <= chosen(page).items()

    page.get_by_role("button", name="Remove granularity: chanel").click()
    assert "granularity" not in chosen(page)
    page.get_by_role("button", name="Clear all filters").click()
    assert chosen(page) == {"q": ["prun"]}


def test_a_method_has_an_address_on_the_front(visit: Visits) -> None:
    page = visit(viewport={"width": 1000, "height": 400})
    page.goto("index.html?sort=-year#qkd")
    box = page.locator("tr#qkd").bounding_box()
    assert box is not None
    assert 0 <= box["y"] < 400
    assert page.url.endswith("?sort=-year#qkd")


def test_columns_sort_down_and_up(visit: Visits, facets: dict[str, Any]) -> None:
    page = visit()
    page.goto("index.html")
    head = page.locator("[data-sort=year]")
    head.get_by_role("button").click()
    first = [facets[key]["year"][0] for key in shown(page) if facets[key].get("year")]
    assert first == sorted(first)
    assert head.get_attribute("aria-sort") == "ascending"
    head.get_by_role("button").click()
    assert [facets[key]["year"][0] for key in shown(page)][: len(first)] == sorted(first, reverse=True)
    assert head.get_attribute("aria-sort") == "descending"
    head.get_by_role("button").click()
    assert urlsplit(page.url).query == ""


def test_the_keys_move_through_the_rows(visit: Visits) -> None:
    page = visit()
    page.goto("index.html?family=quantization")
    keys = shown(page)

    def row() -> Any:
        return page.evaluate("document.activeElement.closest('tr')?.dataset.key")

    page.keyboard.press("j")
    assert row() == keys[0]
    page.keyboard.press("j")
    page.keyboard.press("j")
    assert row() == keys[2]
    page.keyboard.press("k")
    assert row() == keys[1]
    for _ in range(3):
        page.keyboard.press("k")
    assert row() == keys[0]

    page.keyboard.press("/")
    page.keyboard.type("jk?")
    assert page.evaluate("document.activeElement.id") == "q"
    assert page.get_by_label("Search", exact=True).input_value() == "jk?"
    assert page.locator("dialog[open]").count() == 0

    page.goto("index.html?family=quantization")
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/m/{keys[0]}.html")

    page.goto("index.html?view=figures")
    page.keyboard.press("j")
    page.keyboard.press("j")
    rows = page.locator("#figures [data-row]:visible")
    places = rows.evaluate_all("rows => rows.map((row) => row.contains(document.activeElement))")
    assert places[:2] == [False, True]


def test_a_question_mark_shows_the_keys(visit: Visits) -> None:
    page = visit()
    page.goto("index.html")
    page.keyboard.press("?")
    told = page.locator("dialog[open]")
    for key in ("/", "j", "k", "Enter", "?"):
        assert told.locator("kbd", has_text=key).count() >= 1, key
    page.keyboard.press("Escape")
    assert told.count() == 0


def test_the_view_is_taken_along(visit: Visits, tmp_path: Path) -> None:
    page = visit()
    page.goto("index.html?family=joint&sort=-year")
    keys = shown(page)
    assert len(keys) >= 2
    for button, name, read in (("CSV", "view.csv", _csv_keys), ("JSON", "view.json", _json_keys)):
        with page.expect_download() as taken:
            page.get_by_role("button", name=button, exact=True).click()
        taken.value.save_as(tmp_path / name)
        assert read(tmp_path / name) == keys


def _csv_keys(path: Path) -> list[str]:
    with path.open(encoding="utf-8", newline="") as file:
        return [row["key"] for row in csv.DictReader(file)]


def _json_keys(path: Path) -> list[str]:
    read = json.loads(path.read_text(encoding="utf-8"))
    return [row["key"] for row in read]


def test_without_script_every_row_is_there(visit: Visits, facets: dict[str, Any]) -> None:
    page = visit(java_script_enabled=False)
    page.goto("index.html")
    assert set(shown(page)) == set(facets)
    assert not page.locator("#filters").is_visible()
    assert not page.locator("#tools").is_visible()


def test_a_line_can_be_copied(visit: Visits) -> None:
    page = visit(permissions=["clipboard-read", "clipboard-write"])
    page.goto("m/qkd.html")
    block = page.locator("pre.copied").first
    block.get_by_role("button").click()
    block.get_by_role("button", name="copied", exact=True).wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == block.locator("code").inner_text()
