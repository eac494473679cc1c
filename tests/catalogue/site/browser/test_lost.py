"""An address at which there is nothing, as a server answers it."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

import pytest
from tests.catalogue.site.browser.conftest import Visits

from condensery_catalogue.site.building import Handler

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.browser


class Silent(Handler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def home(site: Path) -> Iterator[str]:
    """Serve the site as the command does, and return its address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Silent, directory=str(site))) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(("lost", "nearest"), [("m/lsqq.html", "m/lsq.html"), ("kqd.html?x#y", "m/qkd.html")])
def test_a_lost_reader_is_led_on(started: Browser, home: str, lost: str, nearest: str) -> None:
    visits = Visits(started, {"server": home})
    page = visits()
    answer = page.goto(lost)
    assert answer is not None
    assert answer.status == 404
    assert page.locator("#nearest a").get_attribute("href") == nearest
    assert page.evaluate("getComputedStyle(document.querySelector('main')).maxWidth") == "1248px"
    page.locator("#nearest a").click()
    assert page.url == home + nearest
    page.context.close()
    assert [said for said in visits.faults if lost not in said and "404 (" not in said] == []
