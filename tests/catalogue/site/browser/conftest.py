"""The built site in a real Chromium, from disk and from a server, watched for whatever it shouldn't do.

Needs Debian's ``chromium`` and the extra ``site-test``; without them the tests are skipped, but for ``make test-site``,
which sets ``CONDENSERY_BROWSER=required``.
"""

from __future__ import annotations

import fcntl
import functools
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

import pytest

from condensery.errors import UsageError
from condensery_catalogue.listing import own_registry
from condensery_catalogue.site.building import build_site
from condensery_catalogue.site.screenshots import chromium

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Request, Response

PREFIX = "some/sub-path"
"""Where the site lies on the server: seldom at the root of a host of its own."""
WITHIN = ("data:", "blob:")
"""Addresses that ask nothing of anybody."""


def page_paths(site: Path) -> list[str]:
    """Return the address of each page below the site's."""
    return sorted(path.relative_to(site).as_posix() for path in site.rglob("*.html"))


def kinds(site: Path) -> list[str]:
    """Return pages of each kind: all at the top, and of each folder the largest and the least.

    They are found in what was built, so a new page is among them as soon as it is there.
    """
    by_folder = defaultdict(list)
    for path in page_paths(site):
        by_folder[path.rpartition("/")[0]].append(path)

    def size(path: str) -> int:
        return (site / path).stat().st_size

    inner = [pick(paths, key=size) for folder, paths in by_folder.items() if folder for pick in (max, min)]
    return sorted({*by_folder[""], *inner})


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site once, however many processes share the tests."""
    folder = tmp_path_factory.getbasetemp()
    shared = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    whole = shared / "served" / PREFIX
    with (shared / "site.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not whole.exists():
            made = folder / "made"
            build_site(own_registry(), made)
            whole.parent.mkdir(parents=True)
            made.rename(whole)
    return whole


@pytest.fixture(scope="module")
def started() -> Iterator[Browser]:
    """Start Chromium. Not for the whole session: as long as it runs, no other test can start an event loop."""
    try:
        with chromium() as browser:
            yield browser
    except UsageError as error:
        if os.environ.get("CONDENSERY_BROWSER") == "required":
            pytest.fail(str(error))
        pytest.skip(str(error))


class Quiet(SimpleHTTPRequestHandler):
    """Serves files, and writes no line about it."""

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder to this machine while the block runs; gives its address, without a slash at the end."""
    handler = functools.partial(Quiet, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="session")
def places(site: Path) -> Iterator[Mapping[str, str]]:
    """Return the address of the site on disk and on a server, below which all its pages lie."""
    root = site.parents[len(Path(PREFIX).parts) - 1]
    with served(root) as address:
        yield {"disk": f"{site.as_uri()}/", "server": f"{address}/{PREFIX}/"}


class Visits:
    """Opens pages that are watched: what they say to the console, what breaks, what they ask of other places."""

    def __init__(self, browser: Browser, places: Mapping[str, str]) -> None:
        self.browser, self.places = browser, places
        self.faults: list[str] = []

    def __call__(self, place: str = "server", **options: Any) -> Page:
        """Return an empty page, for which the site's addresses are relative: ``page.goto("index.html")``.

        :param place: ``disk`` or ``server``.
        :param options: of Playwright's ``new_context``, such as ``color_scheme="dark"``.
        """
        home = self.places[place]
        page = self.browser.new_context(base_url=home, **options).new_page()
        page.set_default_timeout(90_000)
        page.on("console", lambda said: self.faults.append(f"{page.url}: console: {said.text}"))
        page.on("pageerror", lambda error: self.faults.append(f"{page.url}: error: {error}"))
        page.on("request", lambda request: self._asked(page, home, request))
        page.on("requestfailed", lambda request: self.faults.append(f"{page.url}: not loaded: {request.url}"))
        page.on("response", self._answered)
        return page

    def _asked(self, page: Page, home: str, request: Request) -> None:
        if not request.url.startswith((home, *WITHIN)):
            self.faults.append(f"{page.url}: asks {request.url}")

    def _answered(self, answer: Response) -> None:
        if answer.status >= 400:
            self.faults.append(f"{answer.status}: {answer.url}")


@pytest.fixture
def visit(started: Browser, places: Mapping[str, str]) -> Iterator[Visits]:
    """Open watched pages, and fail if any of them did what it shouldn't."""
    visits = Visits(started, places)
    yield visits
    for context in started.contexts:
        context.close()
    assert visits.faults == []
