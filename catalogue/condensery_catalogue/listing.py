"""``list`` and ``plugins``: what the catalogue holds, read without torch."""

from __future__ import annotations

import importlib.metadata
import json
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, get_args

from condensery.contract import KINDS, Entry, Registry, name_plugin
from condensery.errors import PluginError, UnknownKey, UsageError
from condensery.front import console_table
from condensery_catalogue.wording import DOUBT, reference

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

LOG = logging.getLogger(__name__)
FAMILIES = ("architecture", "pruning", "quantization", "distillation", "joint")
UNBROKEN = ("key", "ref", "on", "family", "setting")
"""Columns whose words are copied from the table, or short."""
PLAIN_WIDTH = 120
"""Where there is no terminal and no ``COLUMNS``."""
LETTERS = {"CNN": "C", "ViT": "V", "Transformer": "T", "RNN": "R", "DQN": "D", "GNN": "N", "GAN": "A"}
"""What stands for a kind of network in a narrow column."""
FACETS = {
    "family": "pruning, quantization, distillation, joint.",
    "network": "CNN, ViT, Transformer, RNN...",
    "domain": "classification, detection...",
    "year": "2017, or 2016-2018.",
    "status": "draft, tested, reproduced.",
    "granularity": "weight, filter, channel, head...",
    "criterion": "What decides what goes.",
    "scope": "global, local.",
    "schedule": "one-shot, iterative, dynamic.",
    "target": "weight, activation, gradient, error.",
    "bits": "8, very low, mixed.",
    "levels": "uniform, non-uniform, clustered.",
    "training": "PTQ, QAT.",
    "precision": "fixed, dynamic, discrete values.",
    "knowledge": "output, intermediate, relation, structural.",
    "scheme": "offline, online, self.",
    "teacher-source": "input, original, separate, co-trained, self.",
    "student-source": "pruned, quantized, designed, searched, same.",
    "combination": "KD+P, KD+Q, P+Q...",
    "order": "Of a joint method's parts.",
    "coupling": "iterated, coupled, searched.",
}
"""What ``list`` can ask for, the survey's taxonomy included, with some of its words."""


def open_registry() -> Registry:
    """Open the registry and warn of broken plugins, one line each."""
    registry = Registry.open()
    for problem in registry.problems:
        print(f"warning: {problem}", file=sys.stderr)
    for plugin in registry.plugins:
        LOG.info("plugin %s: %s", plugin.name, plugin.source)
    return registry


def take_plugins(words: Sequence[str]) -> None:
    """Load what ``--plugin`` names, for every registry that is opened from now on.

    :raises CondenseryError: if something is wrong with one: it was asked for, so the rest alone won't do.
    """
    for word in words:
        named = name_plugin(word)
        (plugin,) = Registry.open([(named.name, named.plugin)], entry_points=False).plugins
        if plugin.problems:
            raise PluginError(f"plugin {word}: {'; '.join(plugin.problems)}")


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


def rows(registry: Registry, chosen: Mapping[str, str | None] | None = None) -> list[dict[str, Any]]:
    """Return one row for each paper and method.

    :param chosen: words by facet, see :data:`FACETS`; only rows that have all of them are returned.
    :raises UnknownKey: for a word that no row has.
    :raises UsageError: if no row has all of them.
    """
    found = []
    for key in sorted({*registry.keys("papers"), *registry.keys("methods")}):
        card = registry.card(key) or {}
        entry = registry.entries["methods"].get(key) or composed(registry, key, card)
        row = {
            "key": key,
            "ref": card.get("ref"),
            "reference": reference(card),
            "name": card.get("name", ""),
            "family": card.get("family", ""),
            "year": (card.get("paper") or {}).get("year"),
            "status": card.get("status", "no card"),
            "identity": (card.get("identity") or {}).get("confidence", ""),
            "network": card.get("network") or [],
            "domain": card.get("domain") or [],
            "taxonomy": card.get("taxonomy") or {},
            "runs": entry is not None,
            "plugin": (entry or registry.entries["papers"][key]).plugin,
        }
        found.append(row)

    asked = {facet: word for facet, word in (chosen or {}).items() if word is not None}
    having = [_having(found, facet, word) for facet, word in asked.items()]
    kept = [row for row in found if all(row in some for some in having)]
    if asked and not kept:
        raise UsageError(
            f"no entry has all of these: {', '.join(f'{facet} {word!r}' for facet, word in asked.items())}"
        )
    return kept


def _having(found: Sequence[Mapping[str, Any]], facet: str, word: str) -> list[Any]:
    """Return the rows that have a word of a facet; none where it is a word of the taxonomy that no row has yet.

    :raises UnknownKey: for another word, naming the nearest one that a row has.
    """
    first, dash, last = word.partition("-")
    if facet == "year" and first.isdigit() and (last if dash else first).isdigit():
        kept = [row for row in found if row["year"] and int(first) <= row["year"] <= int(last if dash else first)]
    else:
        kept = [row for row in found if word in words_of(row, facet)]
    if not kept and word not in _taxonomy_words(facet):
        raise UnknownKey(facet.replace("-", " "), word, {w for row in found for w in words_of(row, facet)})
    return kept


def _taxonomy_words(facet: str) -> set[str]:
    """Return the words that a card may say of a facet; none where any will do."""
    from condensery.contract import Card, Taxonomy

    field = {**Card.model_fields, **Taxonomy.model_fields}.get(facet.replace("-", "_"))
    found: set[str] = set()
    todo: list[Any] = [] if field is None else [field.annotation]
    while todo:
        hint = todo.pop()
        found |= {hint} if isinstance(hint, str) else set()
        todo += get_args(hint)
    return found


def words_of(row: Mapping[str, Any], facet: str) -> list[str]:
    """Return what a row says of a facet, as texts."""
    value = row[facet] if facet in row else row["taxonomy"].get(facet.replace("-", "_"))
    return [str(word) for word in (value if isinstance(value, list) else [value]) if word]


def composed(registry: Registry, key: str, card: Mapping[str, Any]) -> Entry | None:
    """Return the entry of a card that other methods make up, if all of them are there."""
    parts = card.get("composed_of")
    return registry.entries["papers"][key] if parts and set(parts) <= set(registry.entries["methods"]) else None


def list_cards(chosen: Mapping[str, str | None], *, as_json: bool) -> None:
    """Print the table of cards, family by family.

    :param chosen: words by facet.
    """
    found = rows(open_registry(), chosen)
    if as_json:
        print(json.dumps(found, indent=1, ensure_ascii=False))
        return

    from rich.text import Text

    out = console()
    said = table("key", "ref", "on", "name")
    for family in (*FAMILIES, ""):
        members = [row for row in found if row["family"] == family]
        if members:
            said.add_section()
            said.add_row(Text(f"{family or 'no card'} ({len(members)})", "bold"))
        for row in members:
            name = row["name"] if row["runs"] else f"{row['name']} (card only)"
            on = "".join(LETTERS[kind] for kind in row["network"])
            said.add_row(*map(Text, (row["key"], row["reference"], on, name)))
    out.print(said)

    letters = {kind for row in found for kind in row["network"]}
    out.print("on: " + ", ".join(f"{LETTERS[kind]} {kind}" for kind in LETTERS if kind in letters) + f". {DOUBT}")
    count = f"{len(found)} {'entry' if len(found) == 1 else 'entries'}"
    out.print(f"{count}. condensery show KEY tells more, condensery fit MODEL what a net can take.", highlight=False)


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
