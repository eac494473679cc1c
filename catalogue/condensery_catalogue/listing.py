"""``list`` and ``plugins``: what the catalogue holds, read without torch."""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from condensery.contract import KINDS, Entry, Registry
from condensery.errors import UnknownKey
from condensery.front import console_table

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

FAMILIES = ("architecture", "pruning", "quantization", "distillation", "joint")
UNBROKEN = ("key", "ref", "family", "setting", "claim")
"""Columns whose words are copied from the table, or short."""
NARROW, PLAIN_WIDTH = 110, 120
"""Below the first ``list`` leaves names out; the second holds where there is no terminal and no ``COLUMNS``."""


def open_registry() -> Registry:
    """Open the registry and warn of broken plugins, one line each."""
    registry = Registry.open()
    for problem in registry.problems:
        print(f"warning: {problem}", file=sys.stderr)
    return registry


def own_registry() -> Registry:
    """Open a registry of what this project itself brings: what is generated into its files must not hold strangers'."""
    points = importlib.metadata.distribution("condensery").entry_points.select(group="condensery")
    return Registry.open(((point.name, point.load()) for point in points), entry_points=False)


def console() -> Console:
    """Return where tables are printed."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() or os.environ.get("COLUMNS") else PLAIN_WIDTH)


def table(*columns: str, title: str | None = None) -> Table:
    """Return an empty table of the house's look; long words are folded, never cut."""
    made = console_table(*columns, title=title)
    for column in made.columns:
        column.no_wrap = column.header in UNBROKEN
    return made


def rows(registry: Registry, family: str | None = None) -> list[dict[str, Any]]:
    """Return one row for each paper and method.

    :raises UnknownKey: for a family that isn't one of the survey's.
    """
    if family is not None and family not in FAMILIES:
        raise UnknownKey("family", family, FAMILIES)

    found = []
    for key in sorted({*registry.keys("papers"), *registry.keys("methods")}):
        card = registry.card(key) or {}
        entry = registry.entries["methods"].get(key) or composed(registry, key, card)
        row = {
            "key": key,
            "ref": card.get("ref"),
            "name": card.get("name", ""),
            "family": card.get("family", ""),
            "year": (card.get("paper") or {}).get("year"),
            "status": card.get("status", "no card"),
            "identity": (card.get("identity") or {}).get("confidence", ""),
            "network": card.get("network") or [],
            "runs": entry is not None,
            "plugin": (entry or registry.entries["papers"][key]).plugin,
        }
        if family is None or row["family"] == family:
            found.append(row)
    return found


def composed(registry: Registry, key: str, card: Mapping[str, Any]) -> Entry | None:
    """Return the entry of a card that other methods make up, if all of them are there."""
    parts = card.get("composed_of")
    return registry.entries["papers"][key] if parts and set(parts) <= set(registry.entries["methods"]) else None


def list_cards(family: str | None, *, as_json: bool) -> None:
    """Print the table of cards."""
    found = rows(open_registry(), family)
    if as_json:
        print(json.dumps(found, indent=1, ensure_ascii=False))
        return

    from rich.text import Text

    out = console()
    wide = out.width >= NARROW
    said = table("key", "ref", *(["name"] if wide else []), "family", "status", "applies to")
    said.columns[-1].no_wrap = wide
    for row in found:
        mark = "" if row["identity"] in ("certain", "") else f" {row['identity']}"
        ref = f"[{row['ref']}]" if row["ref"] else "-"
        status = row["status"] if row["runs"] else f"{row['status']}, card only"
        name = [row["name"]] if wide else []
        cells = [row["key"], ref + mark, *name, row["family"], status, ", ".join(row["network"])]
        said.add_row(*map(Text, cells))
    out.print(said)
    out.print(
        f"{len(found)} entries. condensery show KEY tells more, condensery reproduce KEY runs it", highlight=False
    )


def list_plugins(*, as_json: bool) -> None:
    """Print the installed plugins and their problems."""
    registry = Registry.open()
    found: list[dict[str, Any]] = []
    for plugin in registry.plugins:
        offers = {k: n for k in KINDS if (n := sum(e.plugin == plugin.name for e in registry.entries[k].values()))}
        problems = list(plugin.problems)
        found.append({"name": plugin.name, "source": plugin.source, "offers": offers, "problems": problems})
    if as_json:
        print(json.dumps(found, indent=1))
        return
    from rich.markup import escape

    said = table("plugin", "from", "offers", "problems")
    for row in found:
        kinds = ", ".join(f"{n} {kind}" for kind, n in row["offers"].items()) or "nothing"
        cells = (row["name"], row["source"], kinds, "\n".join(row["problems"]) or "none")
        said.add_row(*map(escape, cells))
    console().print(said)
