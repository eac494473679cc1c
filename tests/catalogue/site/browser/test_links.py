"""Each link and each anchor, as the browser itself resolves it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import pytest
from tests.catalogue.site.browser.conftest import Visits, page_paths

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser

SEEN = """() => ({
  ids: [...document.querySelectorAll("[id]")].map((element) => element.id),
  links: [...document.querySelectorAll("a[href]")]
    .map((link) => new URL(link.getAttribute("href"), document.baseURI).href),
})"""


@pytest.mark.parametrize(("place", "script"), [("disk", True), ("server", False)])
def test_each_link_and_anchor_leads_somewhere(visit: Visits, site: Path, place: str, script: bool) -> None:
    page, home = visit(place, java_script_enabled=script), visit.places[place]
    seen = {path: _seen(page, path) for path in page_paths(site)}
    assert len(seen) >= 90

    for path, found in seen.items():
        assert len(set(found["ids"])) == len(found["ids"]), path
        for link in found["links"]:
            if not link.startswith(home):
                # It leads out, to a paper or its code; nobody follows it here.
                assert link.startswith("https://"), (path, link)
                continue
            parts = urlsplit(link.removeprefix(home))
            target, anchor = unquote(parts.path), unquote(parts.fragment)
            assert (site / target).is_file(), (path, link)
            assert not anchor or anchor in seen[target]["ids"], (path, link)
    assert sum(len(found["links"]) for found in seen.values()) > 2000


def _seen(page: Page, path: str) -> dict[str, Any]:
    page.goto(path)
    return dict(page.evaluate(SEEN))


@pytest.mark.parametrize("place", ["disk", "server"])
@pytest.mark.parametrize("address", ["coverage.html#ref-25", "hooks.html#loss_terms", "m/qkd.html#claims"])
def test_a_permalink_opens_at_its_place(visit: Visits, place: str, address: str) -> None:
    page = visit(place, viewport={"width": 800, "height": 300})
    page.goto(address)
    top = page.evaluate("document.querySelector(':target').getBoundingClientRect().top")
    # Something sticky must not lie over it either.
    assert -1 < top < 300
    shown = page.evaluate("""() => {
      const box = document.querySelector(':target').getBoundingClientRect();
      return document.querySelector(':target').contains(document.elementFromPoint(box.left + 12, box.top + 5));
    }""")
    assert shown


def test_the_tab_key_leads_past_the_head(visit: Visits) -> None:
    page = visit()
    page.goto("coverage.html")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to content"
    assert page.evaluate("document.activeElement.getBoundingClientRect().left") >= 0
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
