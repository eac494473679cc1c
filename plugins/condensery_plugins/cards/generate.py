"""Validate the cards and write their index: ``python -m condensery_plugins.cards.generate [--check]``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from condensery.contract import load_cards
from condensery.errors import CondenseryError
from condensery.recipe import flat, parse, parse_recipe
from condensery.tasks import write_atomic
from condensery_plugins.cards import FOLDER, INDEX


def index_of(folder: Path) -> dict[str, Any]:
    """Return what the index should hold.

    :raises UsageError: naming the first file and field that are wrong.
    """
    cards = load_cards(folder)
    data = {key: card.model_dump(mode="json", exclude_none=True) for key, card in cards.items()}
    for key, card in cards.items():  # a default of null is a value, not an absence
        for name, setting in card.hyperparameters.items():
            data[key]["hyperparameters"][name]["default"] = setting.default
        if card.composition:  # worked out here, so that listing needs no parser
            data[key]["composed_of"] = methods_of(card.composition)
    return data


def methods_of(composition: str) -> list[str]:
    """Return the keys of the methods that a composition is made of, sorted."""
    recipe = parse_recipe({"model": "any", "task": "any", "stages": parse(composition)})
    return sorted({method.key for stage in flat(recipe.stages) for method in stage.methods})


def stale(wanted: dict[str, Any], index: Path) -> list[str]:
    """Return the files that disagree with the index: the cards that changed, or the index itself."""
    try:
        there = json.loads(index.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return [index.name]
    if not isinstance(there, dict):
        return [index.name]
    changed = [f"{key}.yaml" for key in sorted(wanted.keys() | there.keys()) if wanted.get(key) != there.get(key)]
    return changed or ([] if index.read_text(encoding="utf-8") == _text(wanted) else [index.name])


def _text(data: dict[str, Any]) -> str:
    return json.dumps(data, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def main(arguments: list[str], folder: Path = FOLDER, index: Path = INDEX) -> int:
    """Write the index, or check that it is up to date; return the exit code."""
    if arguments not in ([], ["--check"]):
        print("usage: python -m condensery_plugins.cards.generate [--check]", file=sys.stderr)
        return 2
    try:
        wanted = index_of(folder)
    except CondenseryError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    if not arguments:
        write_atomic(index, lambda path: path.write_text(_text(wanted), encoding="utf-8"))
        return 0
    changed = stale(wanted, index)
    if changed:
        print(f"{index.name} is stale ({', '.join(changed)}): say make cards", file=sys.stderr)
    return 1 if changed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
