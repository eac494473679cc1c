"""The claims that stored results answer, as rows that can be filtered by verdict, tier, and what weakens them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from condensery_catalogue.site.result_pages import page_name
from condensery_catalogue.wording import RECALLED, answer, claimed, effect, measured, seeds_of, subject, whose, word

FACETS = ("verdict", "tier", "scale", "method", "kind", "caveat")
"""What the list is filtered by."""


def answered(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return a row for each claim that a result answers, and how many rows have each word of each facet."""
    rows = [_row(result, c) for result in results for c in result["comparisons"] if c["verdict"]]
    counts = {facet: Counter(said for row in rows for said in row["facets"][facet]) for facet in FACETS}
    return {"rows": rows, "facets": {facet: dict(sorted(words.items())) for facet, words in counts.items() if words}}


def _row(result: Mapping[str, Any], comparison: Mapping[str, Any]) -> dict[str, Any]:
    """Return one answer: the claim in words, what was measured, and the words that it is filtered by."""
    claim, verdict = comparison["claim"], word(comparison)
    card, own = whose(result["card"], claim)
    words = (verdict, result["tier"], result["scale"], result["card"], claim["kind"])
    facets = {facet: [said] for facet, said in zip(FACETS, words, strict=False)}

    return {
        "page": page_name(result),
        "method": result["card"],
        "claim": claim["id"],
        "whose": card,
        "own": own,
        "what": subject(claim),
        "claimed": claimed(claim),
        "measured": measured(comparison),
        "mean": comparison["measured"]["mean"],
        "effect": effect(comparison),
        "verdict": verdict,
        "answer": answer(result, comparison),
        "facets": {**facets, "caveat": caveats(comparison)},
    }


def caveats(comparison: Mapping[str, Any]) -> list[str]:
    """Return what weakens an answer: a claim that nobody here has read, figures of others, a single seed."""
    claim = comparison["claim"]
    source = claim["value"]["source"]
    found = {
        "claim recalled": source == RECALLED,
        "claim second-hand": source == "second-hand",
        "by a third party": claim.get("by") == "third party",
        "1 seed": seeds_of(comparison) == 1,
    }
    return [said for said, holds in found.items() if holds]
