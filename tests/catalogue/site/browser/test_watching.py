"""The watching itself: a fault that nobody sees would make the other tests worthless."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.catalogue.site.browser.conftest import Visits

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.browser


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ("<script>console.log('hello')</script>", "console: hello"),
        ("<script>nowhere()</script>", "error: nowhere is not defined"),
        ("<img src='http://127.0.0.1:9/x.png'>", "asks http://127.0.0.1:9/x.png"),
        ("<script src='missing.js'></script>", "404: "),
    ],
)
def test_each_fault_is_seen(started: Browser, places: Mapping[str, str], site: Path, body: str, fault: str) -> None:
    visits = Visits(started, places)
    page = visits("server")
    page.route("**/made-up.html", lambda route: route.fulfill(body=f"<!doctype html>{body}", content_type="text/html"))
    page.goto("made-up.html")
    page.wait_for_timeout(200)
    page.context.close()
    assert [said for said in visits.faults if fault in said], visits.faults


def test_the_front_is_quiet_from_disk_and_from_a_server(visit: Visits) -> None:
    for place in ("disk", "server"):
        page = visit(place)
        page.goto("index.html")
        assert page.locator("#methods tbody tr").count() >= 60
