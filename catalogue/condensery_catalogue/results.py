"""Stored results: where they lie, and which commit of the code made them. Imports no torch."""

from __future__ import annotations

import json
import subprocess
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args

from condensery.contract import Registry
from condensery.errors import UnknownKey, UsageError

TierName = Literal["smoke", "desk", "paper"]
CHECKOUT = Path("reproductions")
"""The folder of a checkout of this project that holds the recipes."""


def recipe_file(registry: Registry, key: str) -> Path:
    """Return the recipe of a reproduction, in the package that offers it.

    :raises UnknownKey: naming the nearest reproduction.
    :raises UsageError: if the package can't be imported.
    """
    if key not in registry.entries["recipes"]:
        raise UnknownKey("reproduction", key, registry.keys("recipes"))
    entry = registry.find("recipes", key)
    package, _, name = entry.target.partition(":")
    try:
        return Path(str(resources.files(package).joinpath(name)))
    except ImportError as error:
        raise UsageError(f"plugin {entry.plugin!r}: reproduction {key!r} can't be read: {error}") from None


def stored_results(registry: Registry, key: str) -> list[dict[str, Any]]:
    """Return the results that lie beside a reproduction's recipe, smallest tier first.

    :raises UsageError: naming a file that is damaged.
    """
    folder = recipe_file(registry, key).parent
    found = []
    for path in (folder / f"{tier}.json" for tier in get_args(TierName)):
        if path.is_file():
            try:
                found.append(json.loads(path.read_text(encoding="utf-8")))
            except ValueError as error:
                raise UsageError(f"{path}: damaged: {error}") from None

    # A package may keep several recipes in one folder, where it can't be seen from a file's name whose result it is.
    return [result for result in found if result["key"] == key]


def checkout_folder(recipe: Path) -> Path | None:
    """Return the folder of a recipe if it belongs to the checkout in the current folder, else ``None``."""
    return recipe.parent if recipe.resolve().is_relative_to(CHECKOUT.resolve()) else None


def commit() -> str | None:
    """Return the commit of the code that runs, ending in ``-dirty`` where files differ from it.

    ``None`` for an installed package: a repository that happens to lie around it says nothing about the code.
    """
    here = Path(__file__).resolve().with_name("__init__.py")

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here.parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", here.name)
        return git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*") or None
    except (OSError, subprocess.SubprocessError):
        return None
