"""The page of a made-up matrix: views, filters, keys, the cell that opens beside, what one takes along."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.catalogue.site.browser.conftest import Visits, served
from tests.catalogue.site.matrices import METHODS, small

from condensery_catalogue.site import building
from condensery_catalogue.site.matrix_page import Page as MatrixPage

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser

SHOWN = """() => {
  const seen = (cell) => cell.checkVisibility({ visibilityProperty: true, opacityProperty: true });
  const table = [...document.querySelectorAll("section[data-kind]")].filter((one) => !one.hidden);
  return table.map((one) => [one.id, Object.fromEntries([...one.querySelectorAll("tbody tr")].filter(seen).map(
    (tr) => [tr.cells[0].textContent, [...tr.cells].slice(1).filter(seen).map((td) => td.textContent)]))]);
}"""
"""Which tables are in sight, and the cells that are, by row."""
FOCUS = """() => {
  const cell = document.activeElement.closest("td, th");
  return cell && [cell.parentElement.rowIndex, cell.cellIndex];
}"""


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, str]]:
    """Write the page of a made-up matrix alone, and return where it lies."""
    folder = tmp_path_factory.mktemp("matrix")
    (folder / "data").mkdir()
    page, write = MatrixPage(small(), METHODS), building.Writer({})
    write.page("matrix.html", "matrix.html", page=page)
    (folder / "matrix.html").write_text(write.written["matrix.html"], encoding="utf-8")
    (folder / "data" / "matrix.js").write_text(page.data, encoding="utf-8")
    for name in building.STATIC:
        text = (Path(building.__file__).parent / "static" / name).read_text(encoding="utf-8")
        (folder / name).write_text(text, encoding="utf-8")

    with served(folder) as address:
        yield {"disk": f"{folder.as_uri()}/", "server": f"{address}/"}


@pytest.fixture
def page(visit: Visits) -> Page:
    return visit("disk", viewport={"width": 1280, "height": 900})


def shown(page: Page) -> tuple[str, dict[str, list[str]]]:
    """Return the id of the one table in sight, and its cells in sight by row."""
    ((name, rows),) = page.evaluate(SHOWN)
    return name, rows


def beside(page: Page) -> str:
    """Return what the opened cell says."""
    return str(page.locator("#cell").inner_text())


def test_views_and_filters_are_in_the_address_and_back_undoes_them(page: Page) -> None:
    page.goto("matrix.html")
    assert shown(page)[0] == "nets"
    page.get_by_role("link", name="A then B").click()
    name, rows = shown(page)
    assert name == "then-CNN"
    assert rows["alpha"] == ["ok", "ok!", ".", "."]
    assert page.locator("#shown").inner_text() == "16 cells"

    page.locator("[name=rows][value=pruning]").check()
    page.locator("[name=cols][value=quantization]").check()
    assert shown(page) == ("then-CNN", {"alpha": ["ok!"]})
    assert page.url.endswith("matrix.html?view=then&rows=pruning&cols=quantization")
    page.go_back()
    assert shown(page) == ("then-CNN", {"alpha": ["ok", "ok!", ".", "."]})
    page.go_back()
    page.go_back()
    assert shown(page)[0] == "nets"
    assert not page.locator("[name=rows][value=pruning]").is_checked()


def test_only_what_ran_and_only_surprises(page: Page) -> None:
    page.goto("matrix.html?view=then&show=run")
    assert shown(page)[1] == {"alpha": ["ok", "ok!"], "beta": ["~!", "ok"], "gamma": ["ok"], "delta": ["~"]}
    page.locator("[name=show]").select_option("surprises")
    assert shown(page)[1] == {"alpha": ["ok!"], "beta": ["~!"]}
    assert page.locator("#shown").inner_text() == "2 cells"
    # A row and a column without any are gone, so that the head tells of those that stay alone.
    heads = page.locator("#then-CNN thead th").filter(visible=True).all_inner_texts()
    assert heads == ["A", "alpha", "beta"]


def test_a_cell_opens_beside_with_what_it_came_to(page: Page) -> None:
    page.goto("matrix.html?view=then")
    page.locator("#then-CNN tbody tr").nth(1).locator("td").first.click()
    said = beside(page)
    for words in (
        "beta then alpha on CNN",
        "the net came out worse",
        "80 ± 0.35, 2 seeds",
        "50,000 → 40,000",
        "1.25 of",
    ):
        assert words in said
    assert "2026-11-27, commit 0123456789ab, a CPU, torch 2.13" in said
    assert page.locator("#cell dd").all_inner_texts()[1:4] == ["93", "92.5", "91"]
    assert page.locator("#cell pre code").all_inner_texts() == [
        "condensery matrix --only 'CNN: beta -> alpha'",
        "beta(bits=4) -> alpha",
    ]
    link = page.get_by_role("link", name="open in the builder").get_attribute("href")
    assert link == "build.html?c=beta(bits%3D4)%20-%3E%20alpha"
    assert page.url.endswith("?view=then&cell=CNN:beta..alpha")

    page.get_by_role("button", name="the other order: ok!").click()
    assert "alpha then beta on CNN" in beside(page)
    page.keyboard.press("Escape")
    assert page.locator("#cell").is_hidden()
    page.go_back()
    assert "alpha then beta on CNN" in beside(page)


@pytest.mark.parametrize(
    ("address", "said"),
    [
        (
            "?cell=CNN:delta..beta",
            "beta is not applicable: stage 'beta' lacks <b>weights</b> (delta in stage",
        ),
        ("?cell=ViT:delta", "delta is not applicable: stage 'delta' lacks attention layers"),
        ("?cell=CNN:gamma..delta", "ValueError: no"),
        ("?cell=CNN:beta%2Bgamma", "gamma + beta(bits=4){teacher=original}"),
        ("?cell=CNN:delta", "conv1"),
        ("#alpha..beta", "alpha then beta on CNN"),
    ],
)
def test_the_address_opens_a_cell(page: Page, address: str, said: str) -> None:
    page.goto(f"matrix.html{address}")
    assert said in beside(page)


def test_what_the_address_says_that_is_not_there_stays_in_sight(page: Page) -> None:
    page.goto("matrix.html?view=than&rows=prunning,pruning&cell=CNN:omega&colour=red")
    said = page.locator("#doubts").inner_text()
    assert "no such view: than; nearest: then" in said
    assert "no such rows: prunning; nearest: pruning" in said
    assert "no such cell: CNN:omega" in said
    assert "no such setting: colour" in said
    assert list(shown(page)[1]) == ["alpha"]
    page.locator("[name=show]").select_option("run")
    assert "view=than" in page.url


def test_one_cell_is_a_stop_of_tab_and_arrows_go_on(page: Page) -> None:
    page.goto("matrix.html?view=then&cols=pruning,quantization,joint")
    stops = page.locator("#then-CNN").locator("td[tabindex='0'], th[tabindex='0'], a:not([tabindex='-1'])")
    assert stops.count() == 1
    stops.first.focus()
    assert page.evaluate(FOCUS) == [1, 1]
    # The column of the distillation method is left out, so that right goes from the second to the fourth.
    for key, place in (("ArrowRight", [1, 2]), ("ArrowRight", [1, 4]), ("ArrowRight", [1, 4]), ("ArrowDown", [2, 4])):
        page.keyboard.press(key)
        assert page.evaluate(FOCUS) == place
    for key, place in (("Home", [2, 0]), ("End", [2, 4]), ("Control+Home", [0, 0]), ("Control+End", [4, 4])):
        page.keyboard.press(key)
        assert page.evaluate(FOCUS) == place
    assert stops.count() == 1

    page.keyboard.press("Enter")
    assert "delta on CNN" in beside(page)
    assert page.evaluate(FOCUS) == [4, 4]
    page.keyboard.press("Escape")
    assert page.locator("#cell").is_hidden()
    assert page.evaluate(FOCUS) == [4, 4]


def test_the_view_is_taken_along(page: Page) -> None:
    page.goto("matrix.html?view=with&show=run")
    with page.expect_download() as caught:
        page.get_by_role("button", name="JSON").click()
    told = json.loads(Path(caught.value.path()).read_text(encoding="utf-8"))
    # On the diagonal the methods alone; the pair stands twice, each time in the order in which it was run.
    assert sorted((row["kind"], row["first"], row["second"]) for row in told) == [
        *(("alone", key, "") for key in sorted(key for key, _ in METHODS)),
        *[("with", "gamma", "beta")] * 2,
    ]
    (pair, _) = [row for row in told if row["kind"] == "with"]
    assert (pair["first_alone"], pair["second_alone"], pair["after"], pair["before"]) == (92.5, 91, 92.25, 93)
    assert pair["line"] == "gamma + beta(bits=4){teacher=original}"

    with page.expect_download() as caught:
        page.get_by_role("button", name="CSV").click()
    with Path(caught.value.path()).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["after"] for row in rows] == [str(row["after"]).removesuffix(".0") for row in told]


def test_head_and_first_column_stay_in_sight(visit: Visits) -> None:
    page = visit("disk", viewport={"width": 1280, "height": 900})
    page.goto("matrix.html?view=then")
    page.add_style_tag(content="#then-CNN .matrix { width: 8rem; height: 8rem; }")
    page.locator("#then-CNN .matrix").evaluate("(region) => region.scrollTo(60, 60)")
    moved = page.evaluate("""() => {
      const region = document.querySelector("#then-CNN .matrix");
      const at = (path) => region.querySelector(path).getBoundingClientRect();
      const box = region.getBoundingClientRect();
      return [
        region.scrollLeft > 0 && region.scrollTop > 0,
        Math.abs(at("thead th:nth-child(3)").top - box.top) < 3,
        Math.abs(at("tbody tr:last-child th").left - box.left) < 3,
      ];
    }""")
    assert moved == [True, True, True]


def test_on_a_phone_one_method_is_a_list_by_outcome(visit: Visits) -> None:
    page = visit("disk", viewport={"width": 360, "height": 740})
    page.goto("matrix.html?view=then")
    assert page.locator("#then-CNN").is_hidden()
    page.locator("#row").select_option("delta")
    assert page.locator("#list h3").all_inner_texts() == ["worse (1)", "refused (2)", "not run (1)"]
    page.get_by_role("button", name="beta -1").click()
    assert "took them away" in beside(page)
    assert page.url.endswith("?view=then&row=delta&cell=CNN:delta..beta")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_without_its_script_all_of_it_can_be_read(visit: Visits) -> None:
    page = visit("disk", java_script_enabled=False)
    page.goto("matrix.html")
    tables = page.locator("section[data-kind]")
    assert tables.count() == 3
    assert all(one.is_visible() for one in tables.all())
    assert page.locator("#note-1").inner_text().startswith("B is not applicable: stage 'B' lacks <b>weights</b>")
    assert page.locator("#choose").is_hidden()
    assert page.locator("#on-alpha a").get_attribute("href") == "m/alpha.html"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("address", ["matrix.html", "matrix.html?view=then&cell=CNN:beta..alpha"])
def test_nothing_that_axe_finds(visit: Visits, scheme: str, address: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    # From a server: axe reads style sheets by itself, which a page from disk may not.
    page = visit("server", color_scheme=scheme)
    page.goto(address)
    found = Axe().run(page).response["violations"]
    assert [(one["id"], [node["html"] for node in one["nodes"]]) for one in found] == []
