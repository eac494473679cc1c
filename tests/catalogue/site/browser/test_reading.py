"""Who reads it how: light and dark, forced colours, on a phone, enlarged, on paper."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.catalogue.site.browser.conftest import Visits, kinds

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser

PHONE = {"width": 360, "height": 740}
WIDE = """() => {
  const width = document.documentElement.clientWidth;
  const scrolls = (element) => element
    && (/auto|scroll/.test(getComputedStyle(element).overflowX) || scrolls(element.parentElement));
  const out = [...document.querySelectorAll("body *")].filter((element) => {
    const box = element.getBoundingClientRect();
    return box.right > width + 1 && box.left < width && element.checkVisibility() && !scrolls(element.parentElement);
  });
  const whole = document.documentElement.scrollWidth;
  return whole > width ? [whole, ...out.map((element) => element.outerHTML.slice(0, 120))] : [];
}"""
"""What makes a page scroll sideways; tables and code that scroll by themselves may be as wide as they like."""
OPENED = "() => { for (const details of document.querySelectorAll('details')) details.open = true; }"


def violations(page: Page) -> list[tuple[str, str, Any]]:
    """Return what axe finds wrong with a page: the rule, the element, and why."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [(rule["id"], node["html"][:200], node["failureSummary"]) for rule in found for node in rule["nodes"]]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_fault(visit: Visits, site: Path, scheme: str) -> None:
    page = visit(color_scheme=scheme)
    faults = {}
    for path in kinds(site):
        page.goto(path)
        page.evaluate(OPENED)
        faults[path] = violations(page)
    assert {path: found[:5] for path, found in faults.items() if found} == {}
    assert len(faults) >= 9


def test_axe_sees_a_fault(visit: Visits) -> None:
    page = visit(color_scheme="dark")
    page.goto("index.html")
    page.evaluate("document.querySelector('h1').style.color = '#333'")
    assert [rule for rule, *_ in violations(page)] == ["color-contrast"]


def test_axe_finds_no_fault_in_a_filtered_view(visit: Visits) -> None:
    for scheme in ("light", "dark"):
        page = visit(color_scheme=scheme)
        page.goto("index.html?granularity=chanel&family=pruning&sort=-year")
        page.keyboard.press("?")
        assert page.locator("dialog[open]").count() == 1
        assert violations(page) == []


@pytest.mark.parametrize("script", [True, False])
def test_no_page_scrolls_sideways_on_a_phone(visit: Visits, site: Path, script: bool) -> None:
    page = visit(viewport=PHONE, has_touch=True, java_script_enabled=script)
    faults = {}
    for path in kinds(site):
        page.goto(path)
        page.evaluate(OPENED)
        faults[path] = page.evaluate(WIDE)
    assert {path: found for path, found in faults.items() if found} == {}


def test_the_first_rows_stand_on_the_first_screen(visit: Visits) -> None:
    page = visit(viewport={"width": 1280, "height": 800})
    page.goto("index.html")
    tops = page.evaluate(
        "[...document.querySelectorAll('#methods tbody tr')].map((row) => row.getBoundingClientRect())"
    )
    assert sum(box["bottom"] <= 800 for box in tops) >= 8


# At 200 % a window of 1280 x 800 has half as many of CSS's pixels; larger letters leave them as they are.
@pytest.mark.parametrize(
    ("options", "letters"),
    [({"viewport": {"width": 640, "height": 400}, "device_scale_factor": 2}, 100), ({}, 200)],
    ids=["zoomed", "large letters"],
)
def test_nothing_is_lost_at_twice_the_size(visit: Visits, site: Path, options: dict[str, Any], letters: int) -> None:
    page = visit(**options)
    for path in kinds(site):
        page.goto(path)
        page.evaluate(f"document.documentElement.style.fontSize = '{letters}%'")
        assert page.evaluate(WIDE) == [], path
        assert page.evaluate("parseFloat(getComputedStyle(document.body).fontSize)") == 16 * letters / 100
        head = page.locator("header a").last
        head.scroll_into_view_if_needed()
        assert head.is_visible(), path


def test_forced_colours_leave_everything_told_apart(visit: Visits, site: Path) -> None:
    page = visit(forced_colors="active")
    for path in kinds(site):
        page.goto(path)
        page.evaluate(OPENED)
        assert violations(page) == [], path

    page.goto("index.html?granularity=chanel")
    assert page.evaluate("matchMedia('(forced-colors: active)').matches")
    line = page.locator(".chip.unknown s").evaluate("(chip) => getComputedStyle(chip).textDecorationLine")
    assert line == "line-through"
    # A verdict is a word beside its sign, and what has the focus has a frame.
    for verdict in page.locator(".verdict").all()[:20]:
        assert verdict.inner_text().strip()[1:].strip()
    page.keyboard.press("Tab")
    frame = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert frame == "solid"


def test_pictures_keep_their_ground_in_forced_colours(visit: Visits) -> None:
    page = visit(forced_colors="active", color_scheme="dark")
    page.goto("r/hinton-kd-desk.html")
    picture = page.locator(".picture").first
    assert picture.evaluate("(figure) => getComputedStyle(figure).backgroundColor") == "rgb(255, 255, 255)"
    assert picture.locator("text").first.evaluate("(text) => getComputedStyle(text).fill") == "rgb(34, 34, 34)"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_paper_holds_the_text_in_dark_ink_and_no_buttons(visit: Visits, site: Path, scheme: str) -> None:
    page = visit(color_scheme=scheme)
    page.emulate_media(media="print", color_scheme=scheme)
    for path in kinds(site):
        page.goto(path)
        style = page.evaluate(
            "(({color, backgroundColor}) => [color, backgroundColor])(getComputedStyle(document.body))"
        )
        assert style == ["rgb(0, 0, 0)", "rgb(255, 255, 255)"], path
        assert not page.locator("header").is_visible(), path
        assert page.locator("main h1").first.is_visible(), path
        assert [button for button in page.locator("button:not(th button)").all() if button.is_visible()] == [], path


def test_a_page_can_be_printed(visit: Visits) -> None:
    page = visit()
    page.goto("m/qkd.html")
    assert page.pdf()[:5] == b"%PDF-"
