"""What the site shows, as plain data: cards, claims beside results, partners, facets, citations."""

from __future__ import annotations

import inspect
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from condensery.contract import Method, Registry, build_method
from condensery.errors import CondenseryError, UsageError
from condensery_catalogue.browsing import BROWSED, CITATIONS, Entry, browsed, chinese, marks
from condensery_catalogue.claims_list import Standing, standing, standings
from condensery_catalogue.fitting import Partners
from condensery_catalogue.matrix import stored_matrix
from condensery_catalogue.points import comparable, lanes
from condensery_catalogue.reproduction import load_reproduction
from condensery_catalogue.results import all_results, usual_tier
from condensery_catalogue.showing import spelling
from condensery_catalogue.site.answers import answered
from condensery_catalogue.site.arms import arms_of, best_of, curves, ranking
from condensery_catalogue.site.result_pages import page_name
from condensery_catalogue.site.survey import figures, tree
from condensery_catalogue.site.works_on import works_on
from condensery_catalogue.wording import answer, claimed, effect, measured, source, subject, word

CELLS = {
    "pruning": ("granularity", "schedule"),
    "quantization": ("target", "training"),
    "distillation": ("knowledge", "scheme"),
    "joint": ("combination", "coupling"),
}
"""Facets by which two methods of a family are in the same cell of the survey's taxonomy."""
SIMULATED = {"quantized-weights", "quantized-activations"}
"""Words that say of a method that its levels are held in floats, until a layer that computes with codes takes over."""
BACKGROUND = range(1, 4)
"""Other surveys of compression, which it only sets itself apart from."""
UNSEEN = range(90, CITATIONS + 1)
"""In its list, but not in its text as far as we have it."""


def gather(registry: Registry) -> dict[str, Any]:
    """Return all that the site shows.

    Methods come in the order of their numbers in the survey, then by key.
    """
    results = all_results(registry)
    places = standings(registry)
    methods = [_entry(row, places) for row in browsed(registry)]

    partners = _partners(registry)
    plans = {key: load_reproduction(registry, key) for key in registry.keys("recipes")}
    arms, terms, matrix = arms_of(results, registry), chinese(), stored_matrix(registry)
    for entry in methods:
        own = (arms, entry["key"], entry["card"].get("composed_of") or ())
        entry["curves"], entry["best"] = curves(*own), best_of(*own)
        entry["works_on"] = works_on(matrix, entry["key"])
        entry["source"] = source_of(registry, entry["key"])
        entry["terms"] = {mark: terms[mark] for mark in marks(entry) if mark in terms}
        mine = [key for key, plan in plans.items() if plan.card == entry["key"]]
        entry["reproduce"] = [f"condensery reproduce {key} --tier {usual_tier(registry, key)}" for key in mine]
        entry["cell"] = [other["key"] for other in methods if other is not entry and same_cell(entry, other)]
        entry["partners"] = partners.get(entry["key"])
    # A method of words that can't be known is in no table of them.
    left = {entry["key"]: {*entry["partners"]["leaves"]} for entry in methods if entry["partners"]}
    return {
        "methods": methods,
        "results": results,
        "plans": plans,
        "best": ranking(arms, [key for key, words in left.items() if words & SIMULATED]),
        "answered": answered(results),
        "cells": sum(cell.made is not None for cell in matrix.cells),
        "tree": tree(methods, CELLS),
        "figures": figures(methods),
        "facets": facets(methods),
        "citations": citations(methods),
        "verdicts": Counter(word(c) for result in results for c in result["comparisons"] if c["verdict"]),
        "claims": sum(len(entry["claims"]) for entry in methods),
    }


def _entry(row: Entry, places: Mapping[tuple[str, str], list[Standing]]) -> Entry:
    """Return what the site says of one paper or method."""
    key, card, own = row["key"], row["card"], row["results"]
    entry = {**row, "paper": card.get("paper") or {}, "line": spelling(card)}
    entry["results"] = [(page_name(result), result) for result in own]
    entry["claims"] = [_claim(claim, own, places.get((key, claim["id"]), [])) for claim in card.get("claims", [])]
    return entry


def _claim(claim: Mapping[str, Any], results: Sequence[Mapping[str, Any]], places: list[Standing]) -> Entry:
    """Return a claim in words, and what was measured for it."""
    here = [
        {
            "page": page_name(result),
            "tier": result["tier"],
            "seeds": len(result["seeds"]),
            "measured": measured(c),
            "mean": c["measured"]["mean"],
            "effect": effect(c),
            "verdict": word(c),
            "answer": answer(result, c),
            "lanes": lanes(c) if c in comparable(result) else [],
        }
        for result in results
        for c in result["comparisons"]
        if c["claim"]["id"] == claim["id"] and c["verdict"]
    ]
    try:
        stands, where = standing(claim, places)
    except UsageError:
        # Our own cards always say it; a card of somebody else's need not.
        stands, where = "not compared", "its card doesn't say why"
    said = {"what": subject(claim), "claimed": claimed(claim), "source": source(claim)}
    return {"id": claim["id"], **said, "stands": stands, "where": where, "here": here}


def source_of(registry: Registry, key: str) -> Entry | None:
    """Return where a method's class is written and how long it is; ``None`` of a paper, and of what can't be loaded."""
    if key not in registry.entries["methods"]:
        return None
    try:
        cls = registry.load("methods", key)
        lines, first = inspect.getsourcelines(cls)
    except (CondenseryError, OSError, TypeError):
        return None
    file = f"{cls.__module__.replace('.', '/')}.py"
    return {"file": file, "name": cls.__qualname__, "first": first, "lines": len(lines)}


# ---------------------------------------------------------------- methods among each other


def same_cell(one: Entry, other: Entry) -> bool:
    """Tell whether two methods of a family share a word of each facet that makes up the family's cells."""
    cell = CELLS.get(one["family"])
    if cell is None or one["family"] != other["family"]:
        return False
    pairs = [(set(one["facets"][facet]), set(other["facets"][facet])) for facet in cell]
    return all(a & b if a or b else True for a, b in pairs) and any(a for a, _ in pairs)


def _partners(registry: Registry) -> dict[str, Entry]:
    """Return by method what may not come after it, by what it lacks then, and what may, but not in the same stage.

    All others may do both.
    """
    methods: dict[str, Method | None] = {}
    for key in registry.keys("methods"):
        try:
            methods[key] = build_method(key, registry.load("methods", key), {}, registry.card(key) or {})
        except CondenseryError:
            # It has no defaults, or needs a package that isn't here: nothing can be said of it.
            methods[key] = None
    rules = Partners(methods, list(methods))

    found = {}
    for key, words in rules.words.items():
        then = rules.then(key)
        refused = defaultdict(list)
        for other in rules.words.keys() - set(then):
            refused[", ".join(sorted(rules.lacks(key, other)))].append(other)
        found[key] = {
            "then": len(then),
            "refused": {lack: sorted(refused[lack]) for lack in sorted(refused)},
            "apart": sorted(set(then) - set(rules.beside(key)) - {key}),
            **{side: sorted(getattr(words, side)) for side in ("needs", "leaves", "removes")},
        }
    return found


def facets(methods: Sequence[Entry]) -> dict[str, dict[str, int]]:
    """Return how many methods have each word of each facet that any of them has."""
    found = {facet: Counter(said for entry in methods for said in entry["facets"][facet]) for facet in BROWSED}
    return {facet: dict(sorted(words.items())) for facet, words in found.items() if words}


# ---------------------------------------------------------------- the survey


def citations(methods: Sequence[Entry]) -> list[Entry]:
    """Return what the catalogue has of each work that the survey cites."""
    by_number = defaultdict(list)
    for entry in methods:
        by_number[entry["ref"]].append(entry)

    found = []
    for number in range(1, CITATIONS + 1):
        entries = by_number[number]
        if entries:
            state = "covered" if any(entry["runs"] for entry in entries) else "card only"
        else:
            state = "background" if number in BACKGROUND else "unseen" if number in UNSEEN else "missing"
        cited = [said for entry in entries for said in entry["card"].get("cited_as") or []]
        found.append({"number": number, "state": state, "entries": entries, "cited": cited})
    return found


def bibtex(paper: Mapping[str, Any], key: str) -> str:
    """Return a paper as an entry for a bibliography."""
    authors = " and ".join(re.split(r",\s*|\s+and\s+", paper["authors"]))
    fields = {"title": f"{{{paper['title']}}}", "author": authors, "year": paper["year"], "note": paper["venue"]}
    if paper.get("arxiv"):
        fields |= {"eprint": paper["arxiv"], "archiveprefix": "arXiv"}
    if paper.get("doi"):
        fields["doi"] = paper["doi"]
    lines = [f"  {name} = {{{value}}}" for name, value in fields.items()]
    return f"@misc{{{key},\n" + ",\n".join(lines) + "\n}"
