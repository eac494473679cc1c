"""Who reads it how: light and dark, forced colours, on a phone, enlarged, on paper."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest
from tests.catalogue.site.browser.conftest import Visits, kinds

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser

DESK, PHONE, ZOOMED = ({"width": wide, "height": high} for wide, high in ((1280, 800), (360, 740), (640, 400)))
"""Windows in CSS's pixels; at 200 % one of 1280 x 800 has half as many each way."""
OPEN = "() => { for (const details of document.querySelectorAll('details')) details.open = true; }"
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
PRINTED = """() => {
  const { color, backgroundColor } = getComputedStyle(document.body);
  const seen = [...document.querySelectorAll("header, button:not(th button)")].filter((one) => one.checkVisibility());
  return [color, backgroundColor, ...seen.map((element) => element.outerHTML.slice(0, 120))];
}"""
"""Ink, ground, and what on paper is of no use."""
PAPER = ["rgb(0, 0, 0)", "rgb(255, 255, 255)"]


def violations(page: Page, rules: str = "") -> list[tuple[str, str, str]]:
    """Return what axe finds wrong with a page: the rule, the element, and why.

    :param rules: only this one; all if empty.
    """
    from axe_playwright_python.sync_playwright import Axe

    only = {"runOnly": {"type": "rule", "values": [rules]}} if rules else {}
    options = {"resultTypes": ["violations"], "preload": False, **only}
    found = Axe().run(page, options=options).response["violations"]
    return [(rule["id"], node["html"][:200], node["failureSummary"]) for rule in found for node in rule["nodes"]]


@pytest.fixture(scope="module")
def faults(started: Browser, places: Mapping[str, str], site: Path) -> dict[str, dict[str, list[Any]]]:
    """Return what is wrong with a page of each kind by how it is read; each is opened once, as that takes longest."""
    visits = Visits(started, places)
    page = visits(viewport=DESK, color_scheme="light")
    found: dict[str, dict[str, list[Any]]] = {}
    for path in kinds(site):
        page.goto(path)
        page.evaluate(OPEN)
        for way, said in _read(page):
            if said:
                found.setdefault(way, {})[path] = said[:5]
        page.emulate_media(media="screen", color_scheme="light", forced_colors="none")
        page.set_viewport_size(DESK)
    page.context.close()
    assert visits.faults == []
    assert len(kinds(site)) >= 12
    return found


def _read(page: Page) -> Iterator[tuple[str, list[Any]]]:
    """Return the faults of the page that is open, one way of reading after another."""
    yield "light", violations(page)
    # Of axe's rules only this one depends on colours.
    page.emulate_media(color_scheme="dark")
    yield "dark", violations(page, "color-contrast")
    page.emulate_media(color_scheme="light", forced_colors="active")
    yield "forced", violations(page, "color-contrast")
    page.emulate_media(forced_colors="none")

    page.set_viewport_size(PHONE)
    yield "phone", page.evaluate(WIDE)
    page.set_viewport_size(ZOOMED)
    yield "zoomed", page.evaluate(WIDE)

    # A reader's own size of letters moves the narrow layout's limit along, so the page looks as it does zoomed.
    page.set_viewport_size(DESK)
    page.evaluate("document.documentElement.style.fontSize = '200%'")
    size = page.evaluate("getComputedStyle(document.body).fontSize")
    yield "large letters", [] if size == "32px" else [f"letters stay at {size}"]
    page.evaluate("document.documentElement.style.fontSize = ''")

    for scheme in ("light", "dark"):
        page.emulate_media(media="print", color_scheme=scheme)
        said = page.evaluate(PRINTED)
        yield f"paper, {scheme}", [] if said == PAPER else said


WAYS = ("light", "dark", "forced", "phone", "zoomed", "large letters", "paper, light", "paper, dark")


@pytest.mark.parametrize("way", WAYS)
def test_each_kind_of_page_can_be_read(faults: Mapping[str, Any], way: str) -> None:
    assert faults.get(way, {}) == {}
    assert set(faults) <= set(WAYS)


def test_what_is_wrong_is_found(visit: Visits) -> None:
    page = visit(viewport=DESK)
    page.goto("results.html")
    page.evaluate("""() => {
      document.querySelector("h1").style.cssText = "color: #777; background: #888";
      document.querySelector("main p").style.cssText = "width: 700px; background: #fff; font-size: 16px !important";
      document.body.style.cssText = "font-size: 16px";
      document.querySelector("footer").innerHTML = "<button>print me</button>";
      const rule = document.createElement("style");
      rule.textContent = "footer button { display: inline !important }";
      document.head.append(rule);
    }""")
    found = {way: said for way, said in _read(page) if said}
    assert {"light", "dark", "phone", "zoomed", "large letters", "paper, light", "paper, dark"} <= set(found)
    assert found["light"][0][0] == "color-contrast"
    assert "<p style" in found["phone"][1]
    assert found["large letters"][-1] == "letters stay at 16px"
    assert found["paper, dark"][-1] == "<button>print me</button>"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_fault_in_a_filtered_view_and_its_keys(visit: Visits, scheme: str) -> None:
    page = visit(color_scheme=scheme)
    page.goto("index.html?granularity=chanel&family=joint&sort=-year")
    page.keyboard.press("?")
    assert page.locator("dialog[open]").count() == 1
    assert violations(page) == []


def test_without_script_no_page_scrolls_sideways_on_a_phone(visit: Visits, site: Path) -> None:
    page = visit(viewport=PHONE, java_script_enabled=False)
    found = {}
    for path in kinds(site):
        page.goto(path)
        found[path] = page.evaluate(WIDE)
    assert {path: wide for path, wide in found.items() if wide} == {}


def test_the_first_rows_stand_on_the_first_screen(visit: Visits) -> None:
    page = visit(viewport=DESK)
    page.goto("index.html")
    ends = "[...document.querySelectorAll('#methods tbody tr')].map((row) => row.getBoundingClientRect().bottom)"
    assert sum(end <= 800 for end in page.evaluate(ends)) >= 8


def test_forced_colours_leave_everything_told_apart(visit: Visits) -> None:
    page = visit(forced_colors="active")
    page.goto("index.html?granularity=chanel")
    assert page.evaluate("matchMedia('(forced-colors: active)').matches")
    line = page.locator(".chip.unknown s").evaluate("(chip) => getComputedStyle(chip).textDecorationLine")
    assert line == "line-through"

    # A verdict is a word beside its sign, and what has the focus has a frame.
    said = page.evaluate("[...document.querySelectorAll('#methods .verdict')].map((word) => word.textContent.trim())")
    assert said
    assert all(len(word.split(maxsplit=1)) == 2 for word in said)
    page.keyboard.press("Tab")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


@pytest.mark.parametrize("forced", ["active", "none"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_arms_baselines_and_papers_are_told_apart_in_every_colour_scheme(
    visit: Visits, scheme: Literal["light", "dark"], forced: Literal["active", "none"]
) -> None:
    page = visit(forced_colors=forced, color_scheme=scheme)
    page.goto("r/pruning-at-2x-desk.html")
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    colours = {ground}
    for kind, drawn in (("here", "fill"), ("base", "fill"), ("grid", "stroke")):
        mark = page.locator(f".picture .{kind}").first
        colours.add(mark.evaluate("(mark, drawn) => getComputedStyle(mark)[drawn]", drawn))
    assert len(colours) == 4
    paper = page.locator(".picture .paper").first
    assert paper.evaluate("(mark) => getComputedStyle(mark).stroke") not in (ground, "none")
    words = page.locator(".picture text").first
    assert words.evaluate("(text) => getComputedStyle(text).fill") != ground


def test_a_page_can_be_printed(visit: Visits) -> None:
    page = visit()
    page.goto("m/qkd.html")
    assert page.pdf()[:5] == b"%PDF-"
