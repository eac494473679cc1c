"""``browse``, and what one browses by, the same on the web page and in the terminal. Imports no torch."""

from __future__ import annotations

import re
import sys
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from condensery.contract import Registry
from condensery.errors import UsageError
from condensery_catalogue.listing import FACETS, open_registry, rows, words_of
from condensery_catalogue.results import all_results, results_on
from condensery_catalogue.wording import word

BROWSED = ("verdict", *FACETS, "identity")
"""The facets: those of ``list``, what came of a method's claims, and how sure it is which paper is meant."""
GLOSSARY = Path(__file__).parents[1] / "docs" / "glossary.md"
CITATIONS = 92
"""How many works the survey cites."""

Entry = dict[str, Any]
Chosen = Mapping[str, Iterable[str]]
"""Words by facet: several of one facet mean "or", facets mean "and"."""


def browsed(registry: Registry) -> list[Entry]:
    """Return the rows of ``list`` in the survey's order, each with its card, results, facets and text to search."""
    results = all_results(registry)
    terms = chinese()
    found = []
    for row in rows(registry):
        card = {"name": row["key"], "status": "no card", **(registry.card(row["key"]) or {}), "key": row["key"]}
        own = results_on(results, row["key"])
        entry = {**row, "card": card, "results": own, "verdict": answered(card, own)}
        entry["facets"] = {facet: words_of(entry, facet) for facet in BROWSED}
        found.append(entry | {"search": search_text(entry, terms)})
    return sorted(found, key=survey_order)


def survey_order(entry: Entry) -> tuple[int, str]:
    """Return by what entries are ordered: their number in the survey, then their key."""
    return entry["ref"] or CITATIONS + 1, entry["key"]


def answered(card: Mapping[str, Any], results: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the verdicts on a card's own claims, each once."""
    own = {claim["id"] for claim in card.get("claims") or []}
    compared = (c for result in results for c in result["comparisons"] if c["claim"]["id"] in own)
    return sorted({word(c) for c in compared if c["verdict"]})


def search_text(entry: Entry, terms: Mapping[str, Sequence[str]]) -> str:
    """Return what an entry is found by: key, name, authors, year, number, summary, the survey's Chinese terms.

    :param terms: see :func:`chinese`.
    """
    key, card = entry["key"], entry["card"]
    authors = (card.get("paper") or {}).get("authors", "")
    said = (key, entry["name"], authors, entry["year"], entry["reference"], card.get("summary", ""))
    return " ".join([*(str(text) for text in said if text), *(t for mark in marks(entry) for t in terms.get(mark, []))])


def marks(entry: Entry) -> list[str]:
    """Return what the glossary may have a term for: an entry's key, and its words, each behind its facet."""
    return [entry["key"], *(f"{facet}: {said}" for facet, words in entry["facets"].items() for said in words)]


def chinese() -> dict[str, list[str]]:
    """Return the survey's Chinese terms by what the glossary gives them to: ``granularity: filter``, or a key.

    An installed package has no glossary, and none of them.
    """
    found: dict[str, list[str]] = defaultdict(list)
    lines = GLOSSARY.read_text(encoding="utf-8").splitlines() if GLOSSARY.is_file() else []
    for line in lines:
        cells = [cell.strip() for cell in line.strip("| ").split("|")]
        if len(cells) >= 4 and re.search(r"[\u4e00-\u9fff]", cells[1]):
            for mark in re.findall(r"`([^`]+)`", cells[-1]):
                facet, colon, words = mark.partition(": ")
                for said in words.split(", ") if colon else [""]:
                    name = f"{facet.replace('_', '-')}: {said}" if colon else facet
                    found[name] += cells[1].split("、")
    return dict(found)


# ---------------------------------------------------------------- which entries, as site.js does it


def kept(entries: Iterable[Entry], chosen: Chosen, search: str = "") -> list[Entry]:
    """Return the entries that have a chosen word of each facet and match each word of a search."""
    asked = [(facet, set(words)) for facet, words in chosen.items() if words]
    words = plain(search).split()
    return [
        entry
        for entry in entries
        if all(wanted & set(entry["facets"][facet]) for facet, wanted in asked)
        and all(matches(plain(entry["search"]), one) for one in words)
    ]


def counts(entries: Sequence[Entry], chosen: Chosen, search: str = "") -> dict[str, dict[str, int]]:
    """Return by facet and word how many entries are left with that word alone chosen in its facet."""
    found = {}
    for facet in BROWSED:
        others = {name: words for name, words in chosen.items() if name != facet}
        here = Counter(said for entry in kept(entries, others, search) for said in entry["facets"][facet])
        known = sorted({said for entry in entries for said in entry["facets"][facet]})
        if known:
            found[facet] = {said: here[said] for said in known}
    return found


def matches(text: str, one: str) -> bool:
    """Tell whether a word is the beginning of one in a text; Chinese, and a number in brackets, may stand anywhere."""
    if one.startswith("[") or not all(_latin(letter) for letter in one):
        return one in text
    return f" {one}" in f" {text}" or f"-{one}" in text


def plain(text: str) -> str:
    """Return a text without accents, in small letters."""
    apart = unicodedata.normalize("NFKD", text)
    return "".join(letter for letter in apart if not unicodedata.combining(letter)).lower().strip()


def _latin(letter: str) -> bool:
    return letter.isascii() or unicodedata.name(letter, "").startswith("LATIN")


# ---------------------------------------------------------------- the command


def browse(chosen: Mapping[str, str | None], search: str) -> None:
    """Open the catalogue in this terminal; the command that was composed is printed at the end.

    :param chosen: words by facet.
    :raises UsageError: where there is no terminal, or no textual; for a word that nothing has, too.
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError("browse needs a terminal; condensery list and condensery show print the same")
    try:
        from condensery_catalogue.browser import Browser
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "textual":
            raise
        raise UsageError("browse needs the package 'textual': pip install 'condensery[browse]'") from None

    registry = open_registry()
    app = Browser(registry, asked(registry, chosen), search)
    app.run()
    if app.draft.command:
        print(app.draft.command)
        print(app.said, file=sys.stderr)


def asked(registry: Registry, chosen: Mapping[str, str | None]) -> dict[str, set[str]]:
    """Return the words that ``list`` is asked for, by facet; ``2016-2018`` is as many years as there are.

    :raises UnknownKey: for a word that nothing has.
    """
    found = {}
    for facet, one in chosen.items():
        if one is not None:
            had = {said for row in rows(registry, {facet: one}) for said in words_of(row, facet)}
            found[facet] = had if facet == "year" else {one}
    return found
