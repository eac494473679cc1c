"""The addresses that the site has promised: links to them in other places must go on leading somewhere.

``addresses.txt`` holds them. A release adds what is new: ``python tests/catalogue/site/addresses.py``. Nothing is ever
taken out; a page whose method is renamed leaves one that links on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

PROMISED = Path(__file__).with_name("addresses.txt")
ANCHORS = {"m/": "claim-", "coverage.html": "ref-", "hooks.html": "", "index.html": ""}
"""Pages whose anchors are promises too, and how these begin."""


def promised() -> list[str]:
    """Return the addresses that other places may lead to."""
    return PROMISED.read_text(encoding="utf-8").split()


def offered(site: Mapping[str, str]) -> set[str]:
    """Return the addresses of a built site that a release may promise."""
    found = {path for path in site if path.endswith((".html", ".json"))}
    for path, text in site.items():
        for page, begins in ANCHORS.items():
            if path.startswith(page):
                ids = re.findall(r'<(?:tr|h3)[^>]* id="([^"]+)"', text)
                found |= {f"{path}#{name}" for name in ids if name.startswith(begins)}
    return found


if __name__ == "__main__":
    from condensery_catalogue.listing import own_registry
    from condensery_catalogue.site.building import pages

    every = sorted({*promised(), *offered(pages(own_registry()))})
    PROMISED.write_text("\n".join(every) + "\n", encoding="utf-8")
