"""The builder's page: the address is the state, every step is a button, and nothing that isn't known is lost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
from tests.catalogue.site.browser.conftest import Visits

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.browser

LINE = "magnitude(sparsity=0.8) -> lsq(weight_bits=4) + hinton-kd{teacher=original}"
REFUSED = (
    "lsq is not applicable: stage 'lsq' lacks weights that may take any value: no quantizer holds them "
    "(kmeans-sharing in stage 'kmeans-sharing' took them away)"
)


@pytest.fixture
def page(visit: Visits) -> Page:
    return visit("disk")


def go(page: Page, **state: str) -> None:
    """Open the builder with a state in the address."""
    page.goto("build.html" + (f"?{urlencode(state)}" if state else ""))


def state(page: Page) -> Mapping[str, list[str]]:
    """Return what the address says."""
    return parse_qs(urlsplit(page.url).query)


def row(page: Page, key: str) -> str:
    """Return what the list of methods says of one."""
    return str(page.locator(f'#palette li[data-key="{key}"]').inner_text())


def test_an_address_is_the_whole_composition(page: Page) -> None:
    go(page, c=LINE, model="resnet20", task="cifar10", target="bytes:0.1")
    assert page.locator("#stages > .stage").count() == 2
    assert page.locator("#verdict").inner_text().startswith("✓ legal: yes")
    assert page.locator("#line").input_value() == LINE
    assert page.locator("#command").inner_text() == f'condensery compose "{LINE}" --model resnet20 --task cifar10'
    assert f'compress(net, "{LINE}", train=train, test=test, target={{"bytes": 0.1}})' in page.inner_text("#python")
    assert "it needs just one open number that sets how much goes; here: none" in page.inner_text("#aimed")
    assert "model: {" in page.inner_text("#recipe")
    after = page.locator("#after li").all_inner_texts()
    assert after[1] == "after magnitude: batch-norm, classifier-logits, dense-shape, float-weights, mask"
    assert after[2].endswith("(gone: float-weights)")


def test_a_blocked_method_stays_in_sight_with_who_took_the_thing_away(page: Page) -> None:
    go(page, c="kmeans-sharing")
    assert f"✕ not next: {REFUSED}" in row(page, "lsq")
    assert page.get_by_role("button", name="Then lsq", exact=True).is_disabled()
    # In the same stage core names the stage that both share.
    assert "not with stage 1: lsq is not applicable: stage 'kmeans-sharing+lsq' lacks" in row(page, "lsq")
    assert "✓ may come next" in row(page, "huffman")
    assert page.locator("#palette li:not([hidden])").count() == page.locator("#palette li").count() > 50

    go(page, c="kmeans-sharing -> lsq")
    assert page.inner_text("#verdict") == f"✕ legal: no. {REFUSED}"
    assert REFUSED in page.locator(".stage.wrong").inner_text()
    assert page.locator("#mend").is_visible()
    orders = page.locator("#orders li").all_inner_texts()
    assert orders[0] == "lsq -> kmeans-sharing ✕ kmeans-sharing is not applicable: stage 'kmeans-sharing' lacks " + (
        "weights that may take any value: no quantizer holds them (lsq in stage 'lsq' took them away)"
    )


def test_steps_are_buttons_and_back_undoes_them(page: Page) -> None:
    go(page)
    lines = [""]

    def press(name: str) -> None:
        button = page.get_by_role("button", name=name, exact=True)
        button.focus()
        page.keyboard.press("Enter")
        lines.append(state(page).get("c", [""])[0])

    press("Begin with magnitude")
    press("Then hinton-kd")
    press("lsq at the same time as stage 2")
    press("Move stage 2 earlier")
    press("Give lsq a stage of its own")
    press("Remove stage 3")
    press("Let stage 2 act at the same time as the stage before")
    assert lines[1:] == [
        "magnitude",
        "magnitude -> hinton-kd{teacher=original}",
        "magnitude -> hinton-kd + lsq{teacher=original}",
        "hinton-kd + lsq{teacher=original} -> magnitude",
        "hinton-kd{teacher=original} -> lsq -> magnitude",
        "hinton-kd{teacher=original} -> lsq",
        "hinton-kd + lsq{teacher=original}",
    ]
    for line in lines[-2::-1]:
        page.go_back()
        assert state(page).get("c", [""]) == [line]
        assert page.locator("#line").input_value() == line
    page.go_forward()
    assert page.locator("#stages b").all_inner_texts() == ["magnitude"]


def test_the_focus_stays_where_the_keyboard_is(page: Page) -> None:
    go(page, c="magnitude -> huffman -> lsq")
    page.get_by_role("button", name="Move stage 3 earlier").focus()
    page.keyboard.press("Enter")
    assert state(page)["c"] == ["magnitude -> lsq -> huffman"]
    assert page.evaluate("document.activeElement.ariaLabel") == "Move stage 3 earlier"
    # What was pressed is gone: the heading of the composition is the nearest place.
    page.get_by_role("button", name="Remove stage 3").focus()
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "yours"


def test_settings_roles_and_rounds_are_fields(page: Page) -> None:
    go(page, c="magnitude -> qkd")
    page.locator("summary", has_text="magnitude").click()
    page.get_by_label("sparsity", exact=True).fill("0.75")
    page.get_by_label("sparsity", exact=True).press("Tab")
    assert state(page)["c"] == ["magnitude(sparsity=0.75) -> qkd"]
    page.locator("summary", has_text="qkd").click()
    page.get_by_label("phase", exact=True).select_option("tutor")
    assert state(page)["c"] == ["magnitude(sparsity=0.75) -> qkd(phase=tutor)"]
    assert "qkd is not applicable: stage 'qkd' lacks weights held on a grid" in page.inner_text("#verdict")

    page.locator("summary", has_text="roles and epochs").nth(1).click()
    page.get_by_label("teacher", exact=True).last.fill("magnitude")
    page.get_by_label("teacher", exact=True).last.press("Tab")
    assert state(page)["c"] == ["magnitude(sparsity=0.75) -> qkd(phase=tutor){teacher=magnitude}"]
    page.get_by_label("rounds of the whole").fill("3")
    page.get_by_label("rounds of the whole").press("Tab")
    assert state(page)["c"] == ["(magnitude(sparsity=0.75) -> qkd(phase=tutor){teacher=magnitude}) * 3"]
    page.get_by_role("button", name="Take round 1 away and keep its stages").click()
    assert page.get_by_label("rounds of the whole").input_value() == "1"

    go(page, c="magnitude")
    page.locator("summary", has_text="magnitude").click()
    page.get_by_label("sparsity", exact=True).fill("0.5]")
    page.get_by_label("sparsity", exact=True).press("Tab")
    assert state(page)["c"] == ["magnitude"]
    assert page.get_by_label("sparsity", exact=True).evaluate("field => field.validationMessage") != ""


def test_what_is_not_known_is_struck_and_never_dropped(page: Page) -> None:
    unknown = {"c": "magnitud(sparsity=0.8) -> lsq(weight_bit=4)", "model": "resnet21", "family": "prunin", "x": "1"}
    go(page, **unknown, target="bites:3")
    assert page.locator("#stages s:visible").all_inner_texts() == ["magnitud", "weight_bit=4"]
    struck = page.locator("#doubts s").all_inner_texts()
    assert struck == ["family: prunin", "x: 1", "model: resnet21", "target: bites:3"]
    assert "no such model; nearest: resnet20" in page.inner_text("#doubts")
    assert state(page) == {name: [value] for name, value in {**unknown, "target": "bites:3"}.items()}

    page.locator("summary", has_text="lsq").click()
    page.get_by_role("button", name="Remove weight_bit").click()
    page.get_by_role("button", name="take magnitude").click()
    assert state(page)["c"] == ["magnitude(sparsity=0.8) -> lsq"]
    assert state(page)["x"] == ["1"]
    page.get_by_role("button", name="Remove x: 1").click()
    assert "x" not in state(page)

    go(page, c="magnitude -> (lsq")
    assert page.inner_text("#unread").startswith(
        "magnitude -> (lsq can't be read. composition: expected '->', '+' or ')'"
    )
    assert page.locator("#line").input_value() == "magnitude -> (lsq"
    assert state(page)["c"] == ["magnitude -> (lsq"]


def test_the_list_is_searched_and_filtered_and_the_address_keeps_it(page: Page) -> None:
    go(page, q="kim qkd")
    assert page.locator("#palette li:not([hidden])").evaluate_all("all => all.map((one) => one.dataset.key)") == ["qkd"]
    go(page, family="distillation", scheme="online")
    assert page.locator("#palette li:not([hidden]) > a").all_inner_texts() == ["deep-mutual-learning"]
    page.locator("#f-scheme").evaluate("field => { field.value = ''; field.dispatchEvent(new Event('change')); }")
    assert state(page) == {"family": ["distillation"]}
    page.go_back()
    assert state(page) == {"family": ["distillation"], "scheme": ["online"]}
    assert page.inner_text("#shown").startswith("1 of ")


def test_what_is_known_of_the_same_methods_is_linked(page: Page) -> None:
    go(page, c="qkd -> qkd(phase=co-study){teacher=original} -> qkd(phase=tutor)")
    known = page.locator("#known li").first
    assert known.inner_text().startswith("the same stages: qkd-desk, qkd on resnet20, cifar10: accuracy ")
    assert known.locator("a").first.get_attribute("href") == "r/qkd-desk.html"
    go(page, c="bnn")
    assert page.inner_text("#known ul") == "no stored result of these methods"


def test_a_methods_page_leads_here_with_its_line(page: Page) -> None:
    page.goto("m/qkd.html")
    page.get_by_role("link", name="Open it in the builder").click()
    page.locator("#stages > .stage").nth(2).wait_for()
    assert page.locator("#stages > .stage").count() == 3
    assert page.inner_text("#verdict").startswith("✓ legal: yes")


@pytest.mark.parametrize("line", ["", LINE, "(magnitude -> hinton-kd) * 3 -> kmeans-sharing -> lsq"])
def test_a_phone_needs_no_sideways_scroll(visit: Visits, line: str) -> None:
    page = visit("disk", viewport={"width": 360, "height": 740})
    go(page, **({"c": line} if line else {}))
    page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
    assert page.evaluate("document.documentElement.scrollWidth") == 360


def test_without_a_script_all_methods_are_listed_with_their_words(visit: Visits) -> None:
    page = visit("disk", java_script_enabled=False)
    page.goto("build.html")
    assert page.locator("noscript").is_visible()
    assert not page.locator("#builder").is_visible()
    said = row(page, "kmeans-sharing")
    assert "needs float-weights; leaves palette, quantized-weights; removes float-weights" in said
    assert 'phase="tutor" needs classifier-logits, quantized-weights, teacher; leaves nothing' in row(page, "qkd")
