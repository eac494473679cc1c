"""The table of methods in the README, made from the cards: ``python -m condensery_catalogue.readme [--check]``."""

from __future__ import annotations

import sys
from pathlib import Path

from condensery.data import write_atomic
from condensery.registry import Registry
from condensery_catalogue.listing import rows

README = Path("README.md")
START, END = "<!-- methods: make cards -->", "<!-- /methods -->"


def methods_table(registry: Registry) -> str:
    """Return a Markdown table of the methods that the project itself brings."""
    lines = ["| method | name | family | on | status |", "|---|---|---|---|---|"]
    for row in rows(registry):
        if not row["runs"] or row["plugin"] != "builtin":
            continue
        key = row["key"]
        ref = f"[{row['ref']}]" if row["ref"] else ""
        cells = [f"`{key}` {ref}".strip(), row["name"], row["family"], ", ".join(row["network"]), row["status"]]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    """Write the table into the README of the current folder, or check that it is up to date."""
    old = README.read_text(encoding="utf-8")
    if old.count(START) != 1 or old.count(END) != 1:
        print(f"{README} must hold {START} and {END} once", file=sys.stderr)
        return 1
    head, _, rest = old.partition(START)
    new = f"{head}{START}\n{methods_table(Registry.open())}\n{END}{rest.partition(END)[2]}"
    if "--check" not in arguments:
        write_atomic(README, lambda path: path.write_text(new, encoding="utf-8"))
    elif new != old:
        print(f"{README} is stale: run python -m condensery_catalogue.readme", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
