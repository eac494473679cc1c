"""The table of methods in the README, made from the cards: ``python -m condensery_catalogue.readme [--check]``."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from condensery.contract import Registry
from condensery.files import write_atomic
from condensery_catalogue.listing import rows

README = Path("README.md")
BAR = r"\|"
START, END = "<!-- methods: make cards -->", "<!-- /methods -->"


def methods_table(registry: Registry) -> str:
    """Return a Markdown table of the methods that the project itself brings."""
    found = []
    for row in rows(registry):
        if not row["runs"] or row["plugin"] != "builtin":
            continue
        key = row["key"]
        ref = f"[{row['ref']}]" if row["ref"] else ""
        found.append([f"`{key}` {ref}".strip(), row["name"], row["family"], ", ".join(row["network"]), row["status"]])
    return markdown_table(("method", "name", "family", "on", "status"), found)


def markdown_table(columns: Sequence[str], found: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; texts are taken as Markdown, less what would end a cell."""
    cells = [columns, *found]
    lines = [f"| {' | '.join(' '.join(text.split()).replace('|', BAR) for text in row)} |" for row in cells]
    return "\n".join([lines[0], "|---" * len(columns) + "|", *lines[1:]])


def keep(files: Mapping[Path, str], module: str, *, check: bool) -> int:
    """Write what changed of some generated files, or check that nothing did, and return the exit code.

    :param module: that makes them, for the message.
    """
    stale = [path for path, text in files.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    for path in stale:
        if check:
            print(f"{path} is stale: run python -m {module}", file=sys.stderr)
        else:
            write_atomic(path, lambda temporary, text=files[path]: temporary.write_text(text, encoding="utf-8"))  # type: ignore[misc]
    return 1 if check and stale else 0


def main(arguments: list[str]) -> int:
    """Write the table into the README of the current folder, or check that it is up to date."""
    old = README.read_text(encoding="utf-8")
    if old.count(START) != 1 or old.count(END) != 1:
        print(f"{README} must hold {START} and {END} once", file=sys.stderr)
        return 1
    head, _, rest = old.partition(START)
    new = f"{head}{START}\n{methods_table(Registry.open())}\n{END}{rest.partition(END)[2]}"
    return keep({README: new}, "condensery_catalogue.readme", check="--check" in arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
