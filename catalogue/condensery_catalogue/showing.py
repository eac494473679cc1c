"""``show``: one card, with its claims and what was measured here. Imports no torch."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from condensery.errors import UnknownKey, UsageError
from condensery_catalogue.listing import console, open_registry, table
from condensery_catalogue.results import all_results, results_on, usual_tier
from condensery_catalogue.wording import answer, claimed, effect, measured, reference, seeds_of, source, subject

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from condensery.contract import Registry

BOUNDS = (("gt", ">"), ("ge", ">="), ("lt", "<"), ("le", "<="))


def show_card(key: str, *, as_json: bool) -> None:
    """Print one card.

    :raises UnknownKey: naming the nearest key.
    """
    registry = open_registry()
    known = {*registry.keys("papers"), *registry.keys("methods")}
    if key not in known:
        if key in registry.keys("recipes"):
            from condensery_catalogue.reproduction import load_reproduction

            whose = load_reproduction(registry, key).card
            raise UsageError(f"{key!r} is a reproduction, of {whose!r}: condensery show {whose}")
        raise UnknownKey("method or paper", key, known)

    card = read_card(registry, key)
    if as_json:
        print(json.dumps(card, indent=1, ensure_ascii=False))
    else:
        _print_card(card)


def read_card(registry: Registry, key: str, results: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    """Return a card with what the catalogue knows of it beside: whether it runs, its usual tier, its results.

    :param results: those of a caller that has read them; by default all that answer its claims are read.
    """
    card = dict(registry.card(key) or {"key": key, "name": key, "status": "no card"})
    card["runs"] = key in registry.entries["methods"]
    has = key in registry.entries["recipes"]
    card["reproduction"] = usual_tier(registry, key) if has else None
    card["results"] = results_on(all_results(registry), key) if results is None else results
    return card


def _print_card(card: Mapping[str, Any]) -> None:
    from rich.text import Text

    out = console()
    out.print(title(card))
    for line in about(card):
        out.print(_wrapped(line, out.width), markup=False, highlight=False, soft_wrap=True)

    if card.get("hyperparameters"):
        out.print(settings_table(card["hyperparameters"]))
    for name, lines in (
        ("Claims of the paper", [line for claim in card.get("claims") or [] for line in claim_lines(claim)]),
        ("Measured here", [line for r in card["results"] for c in r["comparisons"] for line in result_lines(r, c)]),
        ("Use", list(usage(card))),
    ):
        if lines:
            out.print(Text(f"\n{name}", "bold"))
        for line in lines:
            out.print(_wrapped(line, out.width), markup=False, highlight=False, soft_wrap=True)


def title(card: Mapping[str, Any]) -> Text:
    """Return what stands above a card: name and number in bold, then key, family and status."""
    from rich.text import Text

    kind = " · ".join(str(word) for word in (card["key"], card.get("family"), card["status"]) if word)
    return Text.assemble((f"{card['name']} {reference(card)}".strip(), "bold"), f"  {kind}")


def _wrapped(line: str, width: int) -> str:
    """Return a line in as many as it takes, each with its indent; an address is never broken."""
    indent = " " * (len(line) - len(line.lstrip(" ")))
    wrapper = textwrap.TextWrapper(width, initial_indent=indent, subsequent_indent=indent)
    wrapper.break_long_words = wrapper.break_on_hyphens = False
    return wrapper.fill(line.strip())


def about(card: Mapping[str, Any]) -> Iterator[str]:
    """Return the lines above the tables: paper, summary, what the survey says, taxonomy."""
    if paper := card.get("paper"):
        yield f"{paper['authors']}: {paper['title']}. {_published(paper)}"
    yield str(card.get("summary", ""))

    identity = card.get("identity") or {}
    if identity.get("confidence") not in (None, "certain"):
        others = f" It could also be: {'; '.join(identity['alternatives'])}." if identity.get("alternatives") else ""
        yield f"which paper the survey means: {identity['confidence']}. {identity.get('note', '')}{others}"
    for cited in card.get("cited_as") or []:
        slip = f" (the survey's slip: {cited['slip']})" if cited.get("slip") else ""
        yield f"survey, section {cited['section']}: {cited['role']}{slip}"

    facets = [*(card.get("taxonomy") or {}).items(), ("network", card.get("network")), ("domain", card.get("domain"))]
    words = [f"{n.replace('_', ' ')}: {', '.join(v) if isinstance(v, list) else v}" for n, v in facets if v]
    if words:
        yield "taxonomy  " + " · ".join(words)


def usage(card: Mapping[str, Any]) -> Iterator[str]:
    """Return the lines below the tables: departures from the paper, pitfalls, and what to type."""
    for text in card.get("departures") or []:
        yield f"departs from the paper: {text}"
    for text in card.get("pitfalls") or []:
        yield f"beware: {text}"
    if card.get("composition") or card["runs"]:
        yield f"spelt: {spelling(card)}"
    if card["reproduction"]:
        yield f"reproduce: condensery reproduce {card['key']} --tier {card['reproduction']}"


def _published(paper: Mapping[str, Any]) -> str:
    venue, year = str(paper.get("venue", "")), str(paper.get("year", ""))
    place = venue if year in venue else f"{venue} {year}".strip()
    links = [f"{name}:{paper[name]}" for name in ("arxiv", "doi") if paper.get(name)]
    return ", ".join([place, *links, *([paper["code"]] if paper.get("code") else [])])


def spelling(card: Mapping[str, Any]) -> str:
    """Return a line that runs the method: as its card says, or with the defaults of its first settings.

    What must come before it stands in front.
    """
    if card.get("composition"):
        return str(card["composition"])

    shown = list((card.get("hyperparameters") or {}).items())[:2]
    own = bare(card, ", ".join(f"{n}={json.dumps(h['default'])}" for n, h in shown))

    before = (card.get("contract") or {}).get("before")
    if not before:
        return own
    from condensery.recipe import format_stages  # here, because what few methods need takes long to load

    return f"{format_stages(before)} -> {own}"


def bare(card: Mapping[str, Any], settings: str = "") -> str:
    """Return a method alone, with the teacher that it has by default."""
    roles = "{teacher=original}" if (card.get("taxonomy") or {}).get("scheme") == "offline" else ""
    return f"{card['key']}({settings}){roles}" if settings else f"{card['key']}{roles}"


def settings_table(settings: Mapping[str, Mapping[str, Any]]) -> Table:
    """Return the hyper-parameters of a card as a table."""
    from rich.markup import escape

    said = table("setting", "type", "default", "range", "meaning", title="Hyper-parameters")
    for name, h in settings.items():
        said.add_row(name, h["type"], *map(escape, setting_words(h)))
    return said


def setting_words(setting: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return a setting's default, what it may be, and its meaning with its unit."""
    bounds = ", ".join(f"{sign} {setting[word]:g}" for word, sign in BOUNDS if setting.get(word) is not None)
    span = bounds or " | ".join(map(str, setting.get("choices") or []))
    unit = f" ({setting['unit']})" if setting.get("unit") else ""
    return json.dumps(setting["default"]), span, setting["meaning"] + unit


def claim_lines(claim: Mapping[str, Any]) -> list[str]:
    """Return what a paper claims, in three lines: a table of as many columns fits no terminal."""
    return [f" {claim['id']}: {claimed(claim)}", f"   {subject(claim)}", f"   {source(claim)}"]


def result_lines(result: Mapping[str, Any], c: Mapping[str, Any]) -> list[str]:
    """Return what was measured for a claim, in three lines.

    :param c: one of the result's comparisons.
    """
    return [
        f" {c['claim']['id']}: {answer(result, c)}",
        f"   measured {measured(c)}; effect {effect(c)}",
        f"   {result['key']}, {result['tier']} tier, {seeds_of(c)} seed{'s' * (seeds_of(c) > 1)}, {result['date']}",
    ]
