"""Stored results: where they lie, and which commit of the code made them. Imports no torch."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from condensery.contract import Registry
from condensery.errors import UnknownKey, UsageError
from condensery.files import package_folder, read_json
from condensery.recipe import load_yaml
from condensery_catalogue.wording import whose

TierName = Literal["smoke", "desk", "paper"]
CHECKOUT = Path("reproductions")
"""The folder of a checkout of this project that holds the recipes."""
TABLES = ("results", "claims", "widths", "matrix")
"""Pages of ``catalogue/docs`` that are made from stored results."""
RESULTS = (":(top,exclude,glob)reproductions/**/*.json", *(f":(top,exclude)catalogue/docs/{t}.md" for t in TABLES))
"""What git leaves out when it looks whether the code has changed: storing one result doesn't stop the next."""
RESTORE = "restore it, or reproduce it again"
"""What to do about a stored result that is damaged."""


def recipe_file(registry: Registry, key: str) -> Path:
    """Return the recipe of a reproduction, in the package that offers it.

    :raises UnknownKey: naming the nearest reproduction.
    :raises UsageError: if the package can't be imported.
    """
    if key not in registry.entries["recipes"]:
        raise UnknownKey("reproduction", key, registry.keys("recipes"))
    entry = registry.find("recipes", key)
    package, _, name = entry.target.partition(":")
    folder = package_folder(package)
    if folder is None:
        raise UsageError(f"plugin {entry.plugin!r}: reproduction {key!r} can't be read: no package {package!r}")
    return folder / str(name)


def usual_tier(registry: Registry, key: str) -> str:
    """Return the tier of a reproduction to start with: desk where there is one, else the largest.

    Read from its file alone, because what checks a recipe takes longer to load than a card to show.

    :raises UsageError: if it has no tier.
    """
    data = load_yaml(recipe_file(registry, key))
    tiers = data.get("tiers") if isinstance(data, Mapping) else None
    if not isinstance(tiers, Mapping) or not tiers:
        raise UsageError(f"reproduction {key!r}: it has no tiers")
    return "desk" if "desk" in tiers else str(list(tiers)[-1])


def stored_results(registry: Registry, key: str, *, sealed: bool = True) -> list[dict[str, Any]]:
    """Return the results that lie beside a reproduction's recipe, smallest tier first.

    :param sealed: refuse one without a checksum, as one with a wrong checksum always is.
    :raises UsageError: naming a file that is damaged, or that somebody has edited.
    """
    folder = recipe_file(registry, key).parent
    found = []
    for path in (folder / f"{tier}.json" for tier in get_args(TierName)):
        if path.is_file():
            found.append(read_json(path, RESTORE, sealed=sealed))

    # A package may keep several recipes in one folder, where it can't be seen from a file's name whose result it is.
    return [result for result in found if result["key"] == key]


def all_results(registry: Registry) -> list[dict[str, Any]]:
    """Return the stored results of all reproductions, in the order of their keys."""
    return [result for key in registry.keys("recipes") for result in stored_results(registry, key)]


def results_on(results: Iterable[Mapping[str, Any]], card: str) -> list[dict[str, Any]]:
    """Return those results that answer claims of a card, whatever reproduction made them.

    Comparisons of other cards' claims are left out, and the card's own have the ids that it gives them. A result of a
    reproduction of the card itself is there in any case.
    """
    found = []
    for result in results:
        claims = [(c, *whose(result["card"], c["claim"])) for c in result["comparisons"]]
        own = [{**c, "claim": {**c["claim"], "id": id}} for c, of, id in claims if of == card]
        if own or result["card"] == card:
            found.append({**result, "comparisons": own})
    return found


def publishing_place(recipe: Path, tier: str, seeds: int) -> Path:
    """Return the file that a result is published in, beside its recipe in the checkout in the current folder.

    :param seeds: how many the result will have.
    :raises UsageError: for a tier that shows nothing, a recipe that isn't part of the checkout, fewer seeds than stand
        there already, or code that no commit holds.
    """
    if tier == "smoke":
        raise UsageError("--store: the smoke tier shows only that everything runs, so its results aren't kept")
    if not recipe.resolve().is_relative_to(CHECKOUT.resolve()):
        raise UsageError(f"--store: {recipe} isn't part of a checkout in the current folder")

    path = recipe.parent / f"{tier}.json"
    standing = len(read_json(path, RESTORE)["seeds"]) if path.is_file() else 0
    if seeds < standing:
        raise UsageError(f"--store: {path} has {standing} seeds, and this would have {seeds}")
    if (changed := changed_files()) is None:
        raise UsageError("--store: the code that runs is no git checkout, so nobody could tell what made the result")
    if changed:
        raise UsageError(f"--store: commit first: {', '.join(changed[:3])}{', ...' if changed[3:] else ''} changed")
    return path


def commit() -> str | None:
    """Return the commit of the code that runs, ending in ``-dirty`` where files other than results differ from it.

    ``None`` for an installed package: a repository that happens to lie around it says nothing about the code.
    """
    changed = changed_files()
    return None if changed is None else _git("rev-parse", "HEAD") + ("-dirty" if changed else "")


def commit_date() -> str | None:
    """Return the day of the commit of the code that runs, as 2026-01-31; ``None`` for an installed package."""
    return None if changed_files() is None else _git("log", "-1", "--format=%cs")


def changed_files() -> list[str] | None:
    """Return the files of the checkout of the code that runs that differ from its commit, less results and their table.

    ``None`` if the code isn't part of a checkout that has a commit.
    """
    try:
        _git("ls-files", "--error-unmatch", "__init__.py")
        _git("rev-parse", "--verify", "HEAD")
        return _git("diff", "--name-only", "HEAD", "--", ":/", *RESULTS).splitlines()
    except (OSError, subprocess.SubprocessError):
        return None


def _git(*arguments: str) -> str:
    """Return what git says, run beside this file.

    :raises SubprocessError: if it fails, or OSError if there is none.
    """
    command = ["git", "-C", str(Path(__file__).resolve().parent), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
