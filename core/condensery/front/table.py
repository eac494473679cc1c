"""What a run came to, as a table: on a terminal, in a text, in a notebook."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

ROWS = (
    ("parameters", "parameters", None),
    ("non-zero parameters", "nonzeros", None),
    ("file (bytes)", "bytes", "compression_rate"),
    ("MACs", "macs", "macs"),
    ("effective MACs", "effective_macs", "effective_macs"),
    ("bit operations", "bitops", "bitops"),
    ("bytes moved", "moved_bytes", "moved_bytes"),
    ("activations, peak (bytes)", "memory_bytes", None),
    ("latency, batch 1 (ms)", "latency_ms", "speedup"),
    ("  its spread (ms)", "latency_spread_ms", None),
)
"""Title, key of the figure, key of the ratio."""
WIDTH = 80
"""Columns of a table in a text."""


def report_table(report: Mapping[str, Any]) -> Table:
    """Return the figures before and after a run, and their ratios."""
    before, after, ratios = report["before"], report["after"], report["ratios"]
    shown = console_table("", "before", "after", "ratio", title="What came out")
    for column in shown.columns[1:]:
        column.justify = "right"

    for title, key, ratio in ROWS:
        times = ratios[ratio] if ratio else None
        said = f"{times:,.2f}x" if times else ""
        if key == "nonzeros" and ratios["parameters_removed_percent"] is not None:
            said = f"{ratios['parameters_removed_percent']:.1f} % removed"
        shown.add_row(title, figure(before[key]), figure(after[key]), said)
    for name, value in after.get("quality", {}).items():
        was = before.get("quality", {}).get(name)  # an untrained net has none
        shown.add_row(name, figure(was), figure(value), "" if was is None else f"{value - was:+.2f}")
    return shown


def console_table(*columns: str, title: str | None = None) -> Table:
    """Return an empty table of the house's look; long words are folded, never cut."""
    from rich import box
    from rich.table import Table

    made = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in columns:
        made.add_column(column, overflow="fold")
    return made


def as_text(table: Table) -> str:
    """Return a table as plain text."""
    from rich.console import Console

    out = Console(width=WIDTH, file=io.StringIO(), force_terminal=False, color_system=None)
    out.print(table)
    assert isinstance(out.file, io.StringIO)
    return "\n".join(line.rstrip() for line in out.file.getvalue().splitlines()).strip("\n")


def as_html(report: Mapping[str, Any]) -> str:
    """Return the table of a report as HTML."""
    from html import escape

    table = report_table(report)
    columns = [[str(cell) for cell in column.cells] for column in table.columns]
    heads = "".join(f"<th>{escape(str(column.header))}</th>" for column in table.columns)
    rows = ("".join(f"<td>{escape(cell)}</td>" for cell in row) for row in zip(*columns, strict=True))
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>"


def figure(value: float | None) -> str:
    """Return a number as it is printed; ``-`` where it is unknown."""
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.{1 if abs(value) >= 1000 else 3}f}"
