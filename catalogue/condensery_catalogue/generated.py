"""Texts that are made from cards and results: Markdown tables, and whether a file that git keeps is up to date."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from condensery.errors import CondenseryError
from condensery.files import write_atomic

BAR = r"\|"


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; texts are taken as Markdown, less what would end a cell."""
    cells = [columns, *rows]
    lines = [f"| {' | '.join(' '.join(text.split()).replace('|', BAR) for text in row)} |" for row in cells]
    return "\n".join([lines[0], "|---" * len(columns) + "|", *lines[1:]])


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    write_atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def keep(path: Path, text: str, module: str, *, check: bool) -> int:
    """Write a generated file, or check that it is up to date, and return the exit code.

    :param module: that makes the file, for the message.
    """
    if not check:
        write_text(path, text)
        return 0
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return 0
    print(f"{path} is stale: run python -m {module}", file=sys.stderr)
    return 1


def play(main: Callable[[list[str]], int]) -> int:
    """Return the exit code of a module that makes a text; its errors are one line."""
    try:
        return main(sys.argv[1:])
    except CondenseryError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
