"""``list``, ``show`` and ``plugins``: what the catalogue holds, read without torch."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

from condensery.errors import UnknownKey
from condensery.registry import KINDS, Registry

FAMILIES = ("architecture", "pruning", "quantization", "distillation", "joint")
RECALLED = "recalled"


def open_registry() -> Registry:
    """Open the registry and warn of broken plugins, one line each."""
    registry = Registry.open()
    for problem in registry.problems:
        print(f"warning: {problem}", file=sys.stderr)
    return registry


def _rows(registry: Registry, family: str | None) -> list[dict[str, Any]]:
    if family is not None and family not in FAMILIES:
        raise UnknownKey("family", family, FAMILIES)
    rows = []
    for key in sorted({*registry.keys("papers"), *registry.keys("methods")}):
        card = registry.card(key) or {}
        paper = card.get("paper") or {}
        entry = registry.entries["methods"].get(key)
        row = {
            "key": key,
            "ref": card.get("ref"),
            "name": card.get("name", ""),
            "family": card.get("family", ""),
            "year": paper.get("year"),
            "status": card.get("status", "no card"),
            "identity": (card.get("identity") or {}).get("confidence", ""),
            "runs": entry is not None,
            "plugin": (entry or registry.entries["papers"][key]).plugin,
        }
        if family is None or row["family"] == family:
            rows.append(row)
    return rows


def list_cards(family: str | None, *, as_json: bool) -> None:
    """Print the table of cards."""
    rows = _rows(open_registry(), family)
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{len(rows)} entries", title_justify="left")
    for column in ("key", "ref", "name", "family", "year", "status", "runs"):
        table.add_column(column, no_wrap=column == "key")
    for row in rows:
        mark = "" if row["identity"] in ("certain", "") else f" ({row['identity']})"
        ref = f"\\[{row['ref']}]" if row["ref"] else "-"
        year = str(row["year"] or "")
        table.add_row(
            row["key"], ref + mark, row["name"], row["family"], year, row["status"], "yes" if row["runs"] else ""
        )
    console = Console()
    console.print(table)
    console.print("condensery show KEY tells more; condensery reproduce KEY runs it")


def show_card(key: str, *, as_json: bool) -> None:
    """Print one card.

    :raises UnknownKey: naming the nearest key.
    """
    registry = open_registry()
    known = {*registry.keys("papers"), *registry.keys("methods")}
    if key not in known:
        raise UnknownKey("method or paper", key, known)
    card = dict(registry.card(key) or {"key": key, "name": key, "status": "no card"})
    card["runs"] = key in registry.entries["methods"]
    card["reproduction"] = key in registry.entries["recipes"]
    if as_json:
        print(json.dumps(card, indent=1, ensure_ascii=False))
        return
    _print_card(card)


def _print_card(card: Mapping[str, Any]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    paper = card.get("paper") or {}
    ref = f" [{card['ref']}]" if card.get("ref") else ""
    kind = " · ".join(str(w) for w in (card["key"], card.get("family"), card["status"]) if w)
    console.print(f"[bold]{escape(str(card['name']))}[/]{escape(ref)}  {escape(kind)}")
    if paper:
        place = f"{paper.get('venue', '')} {paper.get('year', '')}"
        console.print(escape(f"{paper.get('authors', '')}: {paper.get('title', '')}. {place}"), highlight=False)
    console.print(escape(str(card.get("summary", ""))), highlight=False)
    identity = card.get("identity") or {}
    if identity.get("confidence") not in (None, "certain"):
        console.print(f"which paper the survey means: {identity['confidence']}. {escape(identity.get('note', ''))}")
    if card.get("hyperparameters"):
        table = Table(
            "hyper-parameter", "type", "default", "range", "meaning", title="Hyper-parameters", title_justify="left"
        )
        for name, h in card["hyperparameters"].items():
            bounds = [
                f"{sign} {h[word]}"
                for word, sign in (("gt", ">"), ("ge", ">="), ("lt", "<"), ("le", "<="))
                if h.get(word) is not None
            ]
            span = ", ".join(bounds) or " | ".join(map(str, h.get("choices") or []))
            table.add_row(name, h["type"], json.dumps(h["default"]), escape(span), escape(h["meaning"]))
        console.print(table)
    if card.get("claims"):
        table = Table(
            "claim", "what", "on", "baseline", "claimed", "source", title="Claims of the paper", title_justify="left"
        )
        for c in card["claims"]:
            base = c.get("baseline") or {}
            source = c["value"]["source"] + (" (not read)" if c["value"]["source"] == RECALLED else "")
            where = c["value"].get("where") or c.get("table") or ""
            table.add_row(
                c["id"],
                escape(f"{c['metric']} ({c['unit']})"),
                escape(f"{c['model']}, {c['dataset']}"),
                escape(str(base.get("value", ""))),
                escape(str(c["value"]["value"])),
                escape(f"{source}: {where}" if where else source),
            )
        console.print(table)
    for text in card.get("departures") or []:
        console.print(escape(f"departs: {text}"), highlight=False)
    if card.get("composition"):
        console.print(f"spelt: {card['composition']}", markup=False, highlight=False)
    if card.get("reproduction"):
        console.print(f"reproduce: condensery reproduce {card['key']} --tier desk")


def list_plugins(*, as_json: bool) -> None:
    """Print the installed plugins and their problems."""
    registry = Registry.open()
    rows: list[dict[str, Any]] = []
    for plugin in registry.plugins:
        offers = {k: n for k in KINDS if (n := sum(e.plugin == plugin.name for e in registry.entries[k].values()))}
        rows.append({"name": plugin.name, "source": plugin.source, "offers": offers, "problems": list(plugin.problems)})
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table("plugin", "from", "offers", "problems")
    for row in rows:
        said = ", ".join(f"{n} {k}" for k, n in row["offers"].items()) or "nothing"
        problems = "\n".join(row["problems"]) or "none"
        table.add_row(escape(row["name"]), escape(row["source"]), said, escape(problems))
    Console().print(table)
