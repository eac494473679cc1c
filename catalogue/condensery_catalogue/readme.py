"""The table of methods in the README, made from the cards: ``python -m condensery_catalogue.readme [--check]``."""

from __future__ import annotations

import sys
from pathlib import Path

from condensery.contract import Registry
from condensery_catalogue.generated import keep, markdown_table, play
from condensery_catalogue.listing import own_registry, rows

README = Path("README.md")
START, END = "<!-- methods: make cards -->", "<!-- /methods -->"


def methods_table(registry: Registry) -> str:
    """Return a Markdown table of the methods in a registry, less those that are a card only."""
    found = []
    for row in rows(registry):
        if row["runs"]:
            network = ", ".join(row["network"])
            found.append(
                [f"`{row['key']}` {row['reference']}".strip(), row["name"], row["family"], network, row["status"]]
            )
    return markdown_table(("method", "name", "family", "on", "status"), found)


def main(arguments: list[str]) -> int:
    """Write the table into the README of the current folder, or check that it is up to date."""
    old = README.read_text(encoding="utf-8")
    if old.count(START) != 1 or old.count(END) != 1:
        print(f"{README} must hold {START} and {END} once", file=sys.stderr)
        return 1

    head, _, rest = old.partition(START)
    new = f"{head}{START}\n{methods_table(own_registry())}\n{END}{rest.partition(END)[2]}"
    return keep(README, new, "condensery_catalogue.readme", check="--check" in arguments)


if __name__ == "__main__":
    sys.exit(play(main))
