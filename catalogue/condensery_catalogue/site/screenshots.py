"""``make screenshots``: pictures of four of the site's pages for the README, taken in Debian's Chromium.

It needs the extra ``site-test``. The site's own tests start their browser here too.
"""

from __future__ import annotations

import io
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from condensery.errors import UsageError
from condensery_catalogue.listing import own_registry
from condensery_catalogue.site.building import build_site

if TYPE_CHECKING:
    from playwright.sync_api import Browser

FOLDER = Path("catalogue", "docs", "pictures")
SHOTS = {
    "browse": "index.html?sort=verdict",
    "method": "m/qkd.html",
    "builder": "build.html?c=magnitude(sparsity%3D0.8)+-%3E+lsq+%2B+hinton-kd{teacher%3Doriginal}",
    "matrix": "matrix.html",
}
"""Address by the name of the picture."""
WINDOW = {"width": 1280, "height": 800}
COLOURS = 256
"""As many as a byte holds: with fewer the green and the red of the verdicts turn brown."""
LIMIT = 150_000
"""Bytes that a picture may have: each clone of the project holds all of them."""


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start Debian's Chromium, and close it in the end.

    :raises UsageError: if it, or what drives it, isn't installed.
    """
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        raise UsageError("playwright isn't installed: pip install '.[site-test]'") from None
    path = shutil.which("chromium")
    if path is None:
        raise UsageError("there is no chromium: apt-get install chromium")

    # The superuser, as in a container, has no sandbox.
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=path, args=arguments)
        yield browser
        browser.close()


def take(site: Path, folder: Path) -> None:
    """Take all pictures of a built site.

    :raises UsageError: if a page is missing, or a picture is too large.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with chromium() as browser:
        page = browser.new_page(viewport=WINDOW, color_scheme="light")
        for name, address in SHOTS.items():
            path, _, query = address.partition("?")
            if not (site / path).is_file():
                raise UsageError(f"the site has no page {path}")
            page.goto(f"{(site / path).resolve().as_uri()}?{query}")
            made = small(page.screenshot())
            if len(made) > LIMIT:
                raise UsageError(f"the picture of {path} has {len(made):,} bytes, more than {LIMIT:,}")
            (folder / f"{name}.png").write_bytes(made)


def small(picture: bytes) -> bytes:
    """Return a PNG of few colours."""
    few = Image.open(io.BytesIO(picture)).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    into = io.BytesIO()
    few.save(into, "PNG", optimize=True)
    return into.getvalue()


if __name__ == "__main__":
    try:
        with tempfile.TemporaryDirectory() as scratch:
            build_site(own_registry(), Path(scratch))
            take(Path(scratch), FOLDER)
    except UsageError as error:
        sys.exit(f"error: {error}")
