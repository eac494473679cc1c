"""Validate the cards and write their index: ``python -m condensery_plugins.cards.generate [--check]``."""

from __future__ import annotations

import json
import sys

from condensery.cards import load_cards
from condensery.data import write_atomic
from condensery.errors import CondenseryError
from condensery_plugins.cards import FOLDER, INDEX


def index_text() -> str:
    """Return what the index should hold."""
    cards = load_cards(FOLDER)
    data = {key: card.model_dump(mode="json", exclude_none=True) for key, card in cards.items()}
    for key, card in cards.items():  # a default of null is a value, not an absence
        for name, setting in card.hyperparameters.items():
            data[key]["hyperparameters"][name]["default"] = setting.default
    return json.dumps(data, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def main(arguments: list[str]) -> int:
    """Write the index, or check that it is up to date."""
    try:
        text = index_text()
    except CondenseryError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    if "--check" in arguments:
        if INDEX.read_text(encoding="utf-8") != text:
            print(f"{INDEX.name} is stale: run python -m condensery_plugins.cards.generate", file=sys.stderr)
            return 1
        return 0
    write_atomic(INDEX, lambda path: path.write_text(text, encoding="utf-8"))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
