"""What the page of a stored result shows beside its picture: claims, arms, settings tried, recipes, machine."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import yaml

from condensery_catalogue.generated import markdown_table
from condensery_catalogue.outgrown import outgrown
from condensery_catalogue.reproduction import Reproduction
from condensery_catalogue.tuning import at_the_end
from condensery_catalogue.wording import (
    EFFECT,
    EXPLAINED,
    answer,
    claimed,
    collapse,
    collapses,
    counted,
    diverged,
    effect,
    explained,
    measured,
    ranked,
    sends,
    source,
    spread,
    subject,
    word,
)

WORDS = f"{EFFECT} {explained(EXPLAINED)} A claim that was only recalled is never reproduced."
"""What stands under the tables with verdicts."""
RATES = (
    ("MACs, before over after", "macs_ratio", "{:.2f}x"),
    ("file (bytes)", "storage.file", "{:,.0f}"),
    ("file, before over after", "compression_rate", "{:.2f}x"),
    ("as papers count it", "storage_rate", "{:.2f}x"),
    ("seconds a seed", "wall_s", "{:,.0f}"),
)
"""Title, where an arm holds the values of its seeds, and how their mean is said."""
SENT = (
    ("bytes sent a step", "training.sent_bytes", "{:,.0f}"),
    ("gradients, before over after", "training.sent_ratio", "{:.2f}x"),
)
"""The same, where gradients go from worker to worker."""


def index(results: Sequence[Mapping[str, Any]], plans: Mapping[str, Reproduction]) -> str:
    """Return the table of all results, as Markdown.

    :param plans: the reproductions as they are now, by key.
    """
    rows = []
    for result in results:
        verdicts = Counter(_short(c) for c in result["comparisons"] if c["verdict"])
        said = ", ".join(f"{number} {verdict}" for verdict, number in sorted(verdicts.items())) or "-"
        link = f"[{result['key']}](r/{page_name(result)}.html)"
        seeds = str(len(result["seeds"]))
        effects = (
            "; ".join(f"`{c['claim']['id']}` {effect(c)}" for c in result["comparisons"] if effect(c) != "-") or "-"
        )
        since = ", recipe changed since" if outgrown(result, plans[result["key"]]) else ""
        rows.append(
            [link, result["tier"], result["scale"], seeds, said, effects, _device(result), result["date"] + since]
        )
    return markdown_table(("result", "tier", "scale", "seeds", "verdicts", "effects", "device", "date"), rows)


def page_name(result: Mapping[str, Any]) -> str:
    """Return the name of a result's page, less its suffix."""
    return f"{result['key']}-{result['tier']}"


def _short(comparison: Mapping[str, Any]) -> str:
    """Return a verdict for the index: the word, and of a run at another scale where it points."""
    said = word(comparison)
    return f"{said} ({comparison['verdict']['why']})" if said == "scaled-down" else said


def sections(result: Mapping[str, Any]) -> dict[str, str]:
    """Return the Markdown of the page of one result, by title; what a result doesn't have is left out."""
    found = {
        "Claims": _claims(result),
        "Ranked alike": _ranked(result),
        "Arms": _arms(result),
        "Diverged": _diverged(result),
        "Settings tried": _grid(result),
        "Made with": _made(result),
    }
    return {title: text for title, text in found.items() if text}


def recipes(result: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
    """Return, as YAML, what the recipes of all arms have in common, and what each adds to it; both make the recipe."""
    own: Mapping[str, Mapping[str, Any]] = result["recipes"]
    shared = _common(list(own.values()))
    return _yaml(shared), {arm: _yaml(_beyond(recipe, shared)) for arm, recipe in own.items()}


def _common(recipes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what all mappings have alike, mappings below them included."""
    found: dict[str, Any] = {}
    for name, value in recipes[0].items():
        values = [recipe.get(name) for recipe in recipes]
        if all(each == value for each in values):
            found[name] = value
            continue
        below = [each for each in values if isinstance(each, Mapping)]
        if len(below) == len(values) and (alike := _common(below)):
            found[name] = alike
    return found


def _beyond(recipe: Mapping[str, Any], shared: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a mapping adds to what it has in common with others."""
    found = {}
    for name, value in recipe.items():
        if name not in shared:
            found[name] = value
        elif value != shared[name]:
            found[name] = _beyond(value, shared[name])
    return found


def _yaml(recipe: Mapping[str, Any]) -> str:
    """Return a recipe as one would write it: what holds no further mappings stands on one line."""
    dumped: str = yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True, width=110, default_flow_style=None)
    return dumped if recipe else ""


def _claims(result: Mapping[str, Any]) -> str:
    """Return the claims beside what was measured; nothing where nothing is compared."""
    rows = []
    for c in result["comparisons"]:
        claim = c["claim"]
        arms = " against ".join(f"`{arm}`" for arm in (c["arm"], c["baseline_arm"]) if arm)
        said = [f"`{claim['id']}`", subject(claim), claimed(claim), source(claim)]
        rows.append([*said, measured(c), arms, effect(c), answer(result, c)])
    columns = ("claim", "what", "the paper says", "source", "measured here", "arms", "effect", "verdict")
    return markdown_table(columns, rows) if rows else ""


def _arms(result: Mapping[str, Any]) -> str:
    """Return the table of arms; a column that no arm has is left out."""
    arms = list(result["arms"].values())
    columns: dict[str, list[str]] = {"arm": [f"`{arm}`" for arm in result["arms"]]}
    for name in dict.fromkeys(name for arm in arms for name in arm["quality"]):
        columns[name] = [spread(arm["quality"].get(name)) for arm in arms]
    columns["non-zeros"] = [f"{counted(arm['nonzeros'])} of {counted(arm['parameters'])}" for arm in arms]
    columns["collapsed"] = [_collapse(arm) for arm in arms]

    for title, key, form in (*RATES, *SENT * sends(result)):
        values = [[value for value in _values(arm, key) if value is not None] for arm in arms]
        columns[title] = [form.format(statistics.fmean(found)) if found else "-" for found in values]

    shown = {title: cells for title, cells in columns.items() if set(cells) != {"-"}}
    return markdown_table(list(shown), list(zip(*shown.values(), strict=True)))


def _ranked(result: Mapping[str, Any]) -> str:
    """Return how alike figures rank the arms as their quality does; nothing where the recipe asks for no such thing."""
    rows = [(f"`{name}`", alike) for name, alike in ranked(result).items()]
    if not rows:
        return ""
    columns = ("figure", f"ranks the arms as {result['figure']['y_label']} does")
    said = f"By the means over the seeds of {len(result['arms'])} arms: 1 alike, 0 unrelated, -1 reversed."
    return f"{markdown_table(columns, rows)}\n\n{said}"


def _diverged(result: Mapping[str, Any]) -> str:
    """Return the arms that have no figures, because a run of theirs diverged, as a list; nothing where all have."""
    return "\n".join(f"- `{arm}`, {words}" for arm, words in diverged(result).items())


def _grid(result: Mapping[str, Any]) -> str:
    """Return what each arm tried and chose; nothing where the recipe gives no grid."""
    rows = []
    for arm, found in result.get("grid", {}).items():
        for entry in found["tried"]:
            settings = ", ".join(f"`{path}` {value}" for path, value in entry["values"].items())
            score = "diverged" if entry["score"] is None else f"{entry['score']:.2f} {found['metric']}"
            chosen = "yes" + ", at the grid's end" * at_the_end(found) if entry["values"] == found["chosen"] else ""
            rows.append([f"`{arm}`", settings, score, chosen])
    columns = ("arm", "settings", "on held-out training data, one seed", "chosen")
    trained = any(recipe.get("model", {}).get("weights") for recipe in result["recipes"].values())
    seen = "\n\nThe nets start from trained weights, which have seen the held-out data too." if trained else ""
    return markdown_table(columns, rows) + seen if rows else ""


def _values(arm: Mapping[str, Any], path: str) -> Sequence[float | None]:
    """Return a figure of each seed, none where the result doesn't hold it."""
    node: Any = arm
    for part in path.split("."):
        node = node.get(part, {})
    return list(node)


def _collapse(arm: Mapping[str, Any]) -> str:
    """Return in how many seeds an arm collapsed, in which stages, by which methods, and what of the net did."""
    words = collapse(arm)
    return "; ".join([words, *collapses(chain(*arm["collapsed"]))]) if words else "-"


def _device(result: Mapping[str, Any]) -> str:
    return str(result["environment"].get("gpu") or f"{result['device']}, {result['environment']['cpu']}")


def _made(result: Mapping[str, Any]) -> str:
    """Return versions, machine and commit as a list."""
    machine = result["environment"]
    flags = f" with {', '.join(machine['flags'])}" if machine["flags"] else ""
    gpu = f", {machine['gpu']}" if machine.get("gpu") else ""
    threads = f"{machine['cores']} cores, {machine['threads']} threads"
    lines = [
        f"date {result['date']}, seeds {', '.join(map(str, result['seeds']))}, {result['wall_s']:,.0f} seconds in all",
        ", ".join(f"{name} {version}" for name, version in result["versions"].items()),
        f"device {result['device']}: {machine['cpu']}{flags}, {threads}{gpu}",
        f"commit {result['commit'] or 'unknown: an installed package'}",
    ]
    return "\n".join(f"- {line}" for line in lines)
