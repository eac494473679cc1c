"""A page with a picture for each stored result, and their index: ``python -m condensery_catalogue.pages FOLDER``."""

from __future__ import annotations

import statistics
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import yaml

from condensery.contract import Registry
from condensery_catalogue.drawing import save_drawing
from condensery_catalogue.generated import markdown_table, play, write_text
from condensery_catalogue.listing import open_registry
from condensery_catalogue.points import is_drawn
from condensery_catalogue.results import stored_results
from condensery_catalogue.wording import (
    EFFECT,
    EXPLAINED,
    answer,
    claimed,
    collapse,
    collapses,
    counted,
    effect,
    explained,
    heading,
    measured,
    source,
    spread,
    subject,
    word,
)

INDEX = "index.md"
WORDS = f"""{EFFECT} {explained(EXPLAINED)} A claim that was only recalled is never reproduced.
`catalogue/docs/verdicts.md` has the whole rule."""
"""What stands under the tables with verdicts."""
RATES = (
    ("MACs, before over after", "macs_ratio", "{:.2f}x"),
    ("file (bytes)", "storage.file", "{:,.0f}"),
    ("file, before over after", "compression_rate", "{:.2f}x"),
    ("as papers count it", "storage_rate", "{:.2f}x"),
    ("seconds a seed", "wall_s", "{:,.0f}"),
)
"""Title, where an arm holds the values of its seeds, and how their mean is said."""


def build_pages(registry: Registry, folder: Path) -> int:
    """Write the pages and pictures of all stored results, whatever package brings them, and return their number."""
    results = [result for key in registry.keys("recipes") for result in stored_results(registry, key)]
    write_text(folder / INDEX, index_page(results))
    for result in results:
        write_text(folder / f"{page_name(result)}.md", result_page(result))
        if is_drawn(result):
            save_drawing(result, folder / f"{page_name(result)}.svg")
    return len(results)


def page_name(result: Mapping[str, Any]) -> str:
    """Return the name of a result's page and picture, less their suffix."""
    return f"{result['key']}-{result['tier']}"


def index_page(results: Sequence[Mapping[str, Any]]) -> str:
    """Return the page that lists all results."""
    rows = []
    for result in results:
        verdicts = Counter(_short(c) for c in result["comparisons"] if c["verdict"])
        said = ", ".join(f"{number} {verdict}" for verdict, number in sorted(verdicts.items())) or "-"
        link = f"[{result['key']}]({page_name(result)}.md)"
        seeds = str(len(result["seeds"]))
        effects = (
            "; ".join(f"`{c['claim']['id']}` {effect(c)}" for c in result["comparisons"] if effect(c) != "-") or "-"
        )
        rows.append([link, result["tier"], result["scale"], seeds, said, effects, _device(result), result["date"]])
    table = markdown_table(("result", "tier", "scale", "seeds", "verdicts", "effects", "device", "date"), rows)
    return f"""# Results

What was measured here, each beside the claims of its paper. {WORDS}

{table}
"""


def _short(comparison: Mapping[str, Any]) -> str:
    """Return a verdict for the index: the word, and of a run at another scale where it points."""
    said = word(comparison)
    return f"{said} ({comparison['verdict']['why']})" if said == "scaled-down" else said


def result_page(result: Mapping[str, Any]) -> str:
    """Return the page of one result."""
    seeds = len(result["seeds"])
    picture = f"![{heading(result)}]({page_name(result)}.svg)\n\n" if is_drawn(result) else ""
    note = f"{' '.join(result['note'].split())}\n\n" if result["note"] else ""
    over = "from one seed" if seeds == 1 else f"mean ± sample standard deviation over {seeds} seeds"
    recipes = "\n".join(_recipe(arm, recipe) for arm, recipe in result["recipes"].items())
    return f"""# {heading(result)}

{picture}{note}Figures are the {result["epoch"]} epoch's, {over}; `condensery show {result["card"]}` tells all
claims, and `condensery reproduce {result["key"]} --tier {result["tier"]}` runs this again.
[All results]({INDEX})

{_claims(result)}## Arms

{_arms(result)}

{_grid(result)}## Recipes

{recipes}
## Made with

{_made(result)}
"""


def _claims(result: Mapping[str, Any]) -> str:
    """Return the claims beside what was measured, under a heading; nothing where nothing is compared."""
    rows = []
    for c in result["comparisons"]:
        claim = c["claim"]
        arms = " against ".join(f"`{arm}`" for arm in (c["arm"], c["baseline_arm"]) if arm)
        said = [f"`{claim['id']}`", subject(claim), claimed(claim), source(claim)]
        rows.append([*said, measured(c), arms, effect(c), answer(result, c)])
    columns = ("claim", "what", "the paper says", "source", "measured here", "arms", "effect", "verdict")
    return f"## Claims\n\n{markdown_table(columns, rows)}\n\n{WORDS}\n\n" if rows else ""


def _arms(result: Mapping[str, Any]) -> str:
    """Return the table of arms; a column that no arm has is left out."""
    arms = list(result["arms"].values())
    columns: dict[str, list[str]] = {"arm": [f"`{arm}`" for arm in result["arms"]]}
    for name in dict.fromkeys(name for arm in arms for name in arm["quality"]):
        columns[name] = [spread(arm["quality"].get(name)) for arm in arms]
    columns["non-zeros"] = [f"{counted(arm['nonzeros'])} of {counted(arm['parameters'])}" for arm in arms]
    columns["collapsed"] = [_collapse(arm) for arm in arms]

    for title, key, form in RATES:
        values = [[value for value in _values(arm, key) if value is not None] for arm in arms]
        columns[title] = [form.format(statistics.fmean(found)) if found else "-" for found in values]

    shown = {title: cells for title, cells in columns.items() if set(cells) != {"-"}}
    return markdown_table(list(shown), list(zip(*shown.values(), strict=True)))


def _grid(result: Mapping[str, Any]) -> str:
    """Return what each arm tried and chose, under a heading; nothing where the recipe gives no grid."""
    rows = []
    for arm, found in result.get("grid", {}).items():
        for entry in found["tried"]:
            settings = ", ".join(f"`{path}` {value}" for path, value in entry["values"].items())
            score = "diverged" if entry["score"] is None else f"{entry['score']:.2f} {found['metric']}"
            rows.append([f"`{arm}`", settings, score, "yes" if entry["values"] == found["chosen"] else ""])
    table = markdown_table(("arm", "settings", "on held-out training data, one seed", "chosen"), rows)
    return f"## Settings tried\n\n{table}\n\n" if rows else ""


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


def _recipe(arm: str, recipe: Mapping[str, Any]) -> str:
    text = yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True, width=110)
    return f"<details><summary><code>{arm}</code></summary>\n\n```yaml\n{text}```\n\n</details>\n"


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


def main(arguments: list[str]) -> int:
    """Write all pages into the folder that is given."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print("usage: python -m condensery_catalogue.pages FOLDER", file=sys.stderr)
        return 2
    folder = Path(arguments[0])
    print(f"{build_pages(open_registry(), folder)} results: {folder / INDEX}")
    return 0


if __name__ == "__main__":
    sys.exit(play(main))
