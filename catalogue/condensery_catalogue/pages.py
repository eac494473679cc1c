"""One page for each stored result, and their index: ``python -m condensery_catalogue.pages [--check]``.

Everything comes from the results' JSON. A picture is drawn where there is none of its result; another version of
matplotlib would draw it differently, so it is only asked which result it shows.
"""

from __future__ import annotations

import statistics
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from condensery_catalogue.drawing import fingerprint, is_drawn, save_drawing
from condensery_catalogue.readme import keep, markdown_table
from condensery_catalogue.results import answer, heading, measured, results_home, spread, stored_results, went
from condensery_catalogue.showing import claimed, source

INDEX, PAGES = Path("catalogue/docs/results.md"), Path("catalogue/docs/results")
UP = "../" * len(PAGES.parts)
MODULE = "condensery_catalogue.pages"
MADE = f"<!-- made by python -m {MODULE}: make cards -->"


def index_page(results: Sequence[Mapping[str, Any]]) -> str:
    """Return the page that lists all results."""
    rows = []
    for result in results:
        verdicts = Counter(answer(c) for c in result["comparisons"] if c["verdict"])
        said = ", ".join(f"{number} {verdict}" for verdict, number in sorted(verdicts.items())) or "-"
        link = f"[{result['key']}]({PAGES.name}/{page_path(result).name})"
        seeds = str(len(result["seeds"]))
        rows.append([link, result["tier"], result["scale"], seeds, said, _device(result), result["date"]])
    table = markdown_table(("result", "tier", "scale", "seeds", "verdicts", "device", "date"), rows)
    return f"""{MADE}

# Results

What was measured here, each beside the claims of its paper. A run at another scale than the paper's is `scaled-down`,
whatever it measures, and a claim that was only recalled never yields "reproduced".

{table}
"""


def result_page(result: Mapping[str, Any]) -> str:
    """Return the page of one result."""
    seeds = len(result["seeds"])
    picture = f"![{heading(result)}]({UP}{picture_path(result).as_posix()})\n\n" if is_drawn(result) else ""
    note = f"{' '.join(result['note'].split())}\n\n" if result["note"] else ""
    over = "from one seed" if seeds == 1 else f"mean ± sample standard deviation over {seeds} seeds"
    recipes = "\n".join(_recipe(arm, recipe) for arm, recipe in result["recipes"].items())
    return f"""{MADE}

# {heading(result)}

{picture}{note}Figures are the {result["epoch"]} epoch's, {over}; `condensery show {result["card"]}` tells all
claims, and `condensery reproduce {result["key"]} --tier {result["tier"]}` runs this again.
[All results](../{INDEX.name})

{_claims(result)}## Arms

{_arms(result)}

## Recipes

{recipes}
## Made with

{_made(result)}
"""


def page_path(result: Mapping[str, Any]) -> Path:
    """Return where a result's page lies."""
    return PAGES.joinpath(f"{result['key']}-{result['tier']}.md")


def picture_path(result: Mapping[str, Any]) -> Path:
    """Return where a stored result's picture lies: beside it."""
    return (results_home() or Path()).joinpath(result["key"], f"{result['tier']}.svg")


def _claims(result: Mapping[str, Any]) -> str:
    """Return the claims beside what was measured, under a heading; nothing where nothing is compared."""
    rows = []
    for c in result["comparisons"]:
        claim, arms = c["claim"], " against ".join(f"`{arm}`" for arm in (c["arm"], c["baseline_arm"]) if arm)
        setting = ", ".join(w for w in (claim["model"], claim.get("setting"), claim["dataset"]) if w)
        what = f"{claim['metric']}: {setting}"
        here = (measured(c), arms, went(c, len(result["seeds"])), answer(c))
        rows.append([f"`{claim['id']}`", what, claimed(claim), source(claim), *here])
    columns = ("claim", "what", "the paper says", "source", "measured here", "arms", "direction", "verdict")
    return f"## Claims\n\n{markdown_table(columns, rows)}\n\n" if rows else ""


def _arms(result: Mapping[str, Any]) -> str:
    """Return the table of arms; a column that no arm has is left out."""
    columns: dict[str, list[str]] = {"arm": [f"`{arm}`" for arm in result["arms"]]}
    arms = list(result["arms"].values())
    for name in dict.fromkeys(name for arm in arms for name in arm["quality"]):
        columns[name] = [spread(arm["quality"].get(name)) for arm in arms]
    columns["non-zeros"] = [f"{arm['nonzeros']:,} of {arm['parameters']:,}" for arm in arms]
    for title, key, form in RATES:
        values = [[v for v in _values(arm, key) if v is not None] for arm in arms]
        columns[title] = [form.format(statistics.fmean(v)) if v else "-" for v in values]
    shown = {title: cells for title, cells in columns.items() if set(cells) != {"-"}}
    return markdown_table(list(shown), list(zip(*shown.values(), strict=True)))


def _values(arm: Mapping[str, Any], path: str) -> Sequence[float | None]:
    """Return a figure of each seed, none where the result doesn't hold it."""
    node: Any = arm
    for part in path.split("."):
        node = node.get(part, {})
    return list(node)


RATES = (
    ("MACs, before over after", "macs_ratio", "{:.2f}x"),
    ("file (bytes)", "storage.file", "{:,.0f}"),
    ("file, before over after", "compression_rate", "{:.2f}x"),
    ("as papers count it", "storage_rate", "{:.2f}x"),
    ("seconds a seed", "wall_s", "{:,.0f}"),
)
"""Title, where an arm holds the values of its seeds, and how their mean is said."""


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
    """Write the pages and pictures of the checkout in the current folder, or check that they are up to date."""
    check = "--check" in arguments
    if results_home() is None:
        print("no checkout here: run it in the folder that holds reproductions/", file=sys.stderr)
        return 1
    results = stored_results()
    bad = 0
    for result in results:
        picture = picture_path(result)
        if not is_drawn(result) or (picture.is_file() and fingerprint(result) in picture.read_text(encoding="utf-8")):
            continue
        if check:
            print(f"{picture} is not of the result beside it: run python -m {MODULE}", file=sys.stderr)
            bad = 1
        else:
            save_drawing(result, picture)
    pages = {page_path(result): result_page(result) for result in results}
    for path in sorted(set(PAGES.glob("*.md")) - set(pages)):
        if check:
            print(f"{path} has no result: run python -m {MODULE}", file=sys.stderr)
            bad = 1
        else:
            path.unlink()
    return keep({INDEX: index_page(results), **pages}, MODULE, check=check) or bad


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
