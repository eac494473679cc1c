"""What a package's folders say: a card beside each method, a folder with a recipe for each paper.

Nothing is listed by hand. ``ssl.yaml`` beside ``ssl.py`` is the card of the method in it, and names its class; a
folder ``ssl`` with ``recipe.yaml`` in it is its reproduction. Cards are validated, and what was found valid is kept in
the cache by content, so that a list of many methods needs neither a YAML parser nor pydantic.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from functools import cached_property
from hashlib import sha256
from importlib import resources
from pathlib import Path
from typing import Any

from condensery.contract.hookspecs import API, Register, RegisterCard, hookimpl
from condensery.errors import UsageError
from condensery.files import cache_dir, cached_json, write_json

RECIPE = "recipe.yaml"


class ValidCard(dict[str, Any]):
    """A card that was checked against :class:`condensery.contract.Card`, as plain data."""


class Papers:
    """A plugin that offers all papers of one package.

    :param package: an importable package. Every YAML file in it that is no recipe is a card; every folder that holds
        ``recipe.yaml`` is a reproduction, named after the folder.

    Subclass it to offer tasks, models, or layers that several methods share beside the papers.
    """

    condensery_api = API

    def __init__(self, package: str) -> None:
        self.package = package

    @cached_property
    def root(self) -> Path:
        """The package's folder."""
        return Path(str(resources.files(self.package)))

    @hookimpl
    def register_papers(self, register: RegisterCard) -> None:
        """Offer the cards.

        :raises ExceptionGroup: of one :class:`UsageError` for each card that is wrong, once all others are offered.
        """
        cards, wrong = self._cards
        for key, card in cards.items():
            register(key, card)
        if wrong:
            raise ExceptionGroup("cards", wrong)

    @hookimpl
    def register_methods(self, register: Register) -> None:
        """Offer the class that each card names, in the Python file beside the card."""
        for key, card in self._cards[0].items():
            if "class" in card:
                register(key, self._target(key, card["class"]))

    @hookimpl
    def register_layers(self, register: Register) -> None:
        """Offer the transforms and layers that the cards name."""
        self._register_named("layers", register)

    @hookimpl
    def register_codecs(self, register: Register) -> None:
        """Offer the codecs that the cards name."""
        self._register_named("codecs", register)

    def _register_named(self, field: str, register: Register) -> None:
        for key, card in self._cards[0].items():
            for name, target in card.get(field, {}).items():
                register(name, self._target(key, target))

    @hookimpl
    def register_recipes(self, register: Register) -> None:
        """Offer the reproductions."""
        for path in sorted(self.root.rglob(RECIPE)):
            register(path.parent.name, f"{self.package}:{path.relative_to(self.root).as_posix()}")

    def card_file(self, key: str) -> Path:
        """Return the file of one card."""
        return self._files[key][0]

    # ---------------------------------------------------------------- finding

    @cached_property
    def _files(self) -> dict[str, list[Path]]:
        """The files that hold cards, by the key that their name stands for; the second one of a key is an error."""
        recipes = {path.parent for path in self.root.rglob(RECIPE)}
        found: dict[str, list[Path]] = {}
        for path in sorted(self.root.rglob("*.yaml")):
            if path.parent not in recipes:
                found.setdefault(path.stem.replace("_", "-"), []).append(path)
        return found

    @cached_property
    def _cards(self) -> tuple[dict[str, ValidCard], list[UsageError]]:
        """The valid cards by key, and what is wrong with the others."""
        cards, wrong = read_cards(self.package, {key: self.card_file(key) for key in self._files})
        for key, (first, *others) in self._files.items():
            here = first.relative_to(self.root)
            wrong += [UsageError(f"{path}: {here} is the card of {key!r} already") for path in others]
        return cards, wrong

    def _target(self, key: str, name: str) -> str:
        """Return ``package.module:Name`` for a class that a card names, ``Name`` or ``sibling:Name``."""
        path = self.card_file(key).relative_to(self.root)
        sibling, _, cls = name.rpartition(":")
        module = ".".join([self.package, *path.parent.parts, sibling or path.stem])
        return f"{module}:{cls}"


def read_cards(package: str, files: Mapping[str, Path]) -> tuple[dict[str, ValidCard], list[UsageError]]:
    """Read and validate the cards of one package; what was valid before is taken from the cache, by content.

    :param package: which cache file is asked.
    :param files: by the key that each must have.
    :returns: the valid ones, and one error for each other: it names the file and the field.
    """
    kept = _kept(package)
    found: dict[str, Any] = {}
    cards: dict[str, ValidCard] = {}
    wrong: list[UsageError] = []
    for key, path in files.items():
        try:
            mark = sha256(key.encode() + path.read_bytes()).hexdigest()
            found[mark] = kept[mark] if mark in kept else _validated(key, path)
        except (OSError, ValueError, RecursionError) as error:  # The latter two for what is nested without end.
            wrong.append(UsageError(f"{path}: can't be read: {error}"))
        except UsageError as error:
            wrong.append(error)
        else:
            cards[key] = ValidCard(found[mark])

    if found.keys() != kept.keys():
        # Where the cache can't be written, cards are only read more slowly.
        with contextlib.suppress(UsageError):
            write_json(_cache_file(package), found)
    return cards, wrong


def _validated(key: str, path: Path) -> dict[str, Any]:
    """Return the card in a file as plain data.

    :raises UsageError: naming the file and what is wrong in it.
    """
    # Here, because it loads pydantic and a YAML parser.
    from condensery.contract.cards import card_data, read_card

    card = read_card(path)
    if card.key != key:
        raise UsageError(f"{path}: the file must be named after its key, {card.key!r}")
    return card_data(card)


def _cache_file(package: str) -> Path:
    """Return where a package's valid cards are kept; another schema has another file."""
    schema = sha256(Path(__file__).with_name("cards.py").read_bytes()).hexdigest()
    return cache_dir() / "cards" / f"{package}-{schema[:16]}.json"


def _kept(package: str) -> dict[str, Any]:
    """Return what the cache holds; a damaged file counts as none."""
    kept = cached_json(_cache_file(package))
    return kept if isinstance(kept, dict) and all(isinstance(card, dict) for card in kept.values()) else {}
