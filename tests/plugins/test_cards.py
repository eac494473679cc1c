"""The cards of the built-in papers agree with the classes beside them, and every figure says how it is known."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
import re
from typing import Any, get_args, get_origin, get_type_hints

import pytest

import condensery_plugins
from condensery import Layer, Method, Registry, Task, Transform
from condensery.contract import Card, settings_of
from condensery.contract.cards import read_card
from condensery.nets import Branch, Leaf
from condensery.run import Search

REGISTRY = Registry.open()
FILES = {
    key: condensery_plugins.plugin.card_file(key)
    for key, entry in REGISTRY.entries["papers"].items()
    if entry.plugin == "builtin"
}
CARDS = {key: read_card(path) for key, path in FILES.items()}
WORDS = {float: "float", int: "int", bool: "bool", str: "str", dict: "dict", list: "list"}
KINDS: dict[str, type | tuple[type, ...]] = {
    "methods": Method,
    "layers": (Transform, Layer),
    "codecs": (Leaf, Branch),
    "tasks": Task,
    "searches": Search,
}


def word_of(hint: Any) -> str:
    hint = next((part for part in get_args(hint) if type(None) in get_args(hint)), hint)  # int of int | None
    origin = get_origin(hint)
    return "str" if str(origin) == "typing.Literal" else WORDS[origin or hint]


def test_there_are_cards() -> None:
    assert len(CARDS) >= 24
    assert {"pruning", "quantization", "distillation", "joint"} == {card.family for card in CARDS.values()}


@pytest.mark.parametrize("key", [key for key, card in CARDS.items() if card.class_])
def test_card_and_class_agree(key: str) -> None:
    card, cls = CARDS[key], REGISTRY.load("methods", key)
    assert (cls.__name__, cls.key) == (card.class_, key)
    assert cls.__module__.rpartition(".")[2] == FILES[key].stem
    fields, hints = settings_of(cls), get_type_hints(cls)
    assert set(card.hyperparameters) == set(fields)
    for name, described in card.hyperparameters.items():
        field = fields[name]
        made = field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
        assert described.default == made, name
        assert described.type == word_of(hints[name]), name


def test_a_card_that_more_than_drafts_has_a_method_or_methods_that_make_it_up() -> None:
    for card in CARDS.values():
        composed_of = REGISTRY.entries["papers"][card.key].target.get("composed_of", [])
        assert set(composed_of) <= set(REGISTRY.keys("methods")), card.key
        assert card.status == "draft" or card.class_ or composed_of, card.key


PLAYED_BY_A_METHOD = ("WidthAgent", "GreedyWidths")
"""Searches that know the layers of a method's net, so that the command line can't build them."""


def test_every_class_with_a_key_is_offered_by_it() -> None:
    found = set()
    for module in pkgutil.walk_packages(condensery_plugins.__path__, "condensery_plugins."):
        for cls in vars(importlib.import_module(module.name)).values():
            if isinstance(cls, type) and cls.__module__ == module.name and vars(cls).get("key"):
                (kind,) = [kind for kind, bases in KINDS.items() if issubclass(cls, bases)]
                if cls.__name__ in PLAYED_BY_A_METHOD:
                    continue
                assert REGISTRY.load(kind, vars(cls)["key"]) is cls
                found.add(kind)
    assert found == set(KINDS)


@pytest.mark.parametrize("card", CARDS.values(), ids=list(CARDS))
def test_every_figure_that_is_shown_is_marked(card: Card) -> None:
    claims = REGISTRY.entries["papers"][card.key].target["claims"]
    assert len(claims) == len(card.claims) > 0
    for claim in claims:
        for figure in (claim["value"], claim.get("baseline", claim["value"])):
            assert figure["source"] in ("read", "second-hand", "recalled", "derived"), claim["id"]
            assert figure["source"] != "read" or figure.get("where") or claim.get("table"), claim["id"]


def test_figures_nobody_read_stay_recalled() -> None:
    recalled = {
        f"{key}:{c.id}"
        for key, card in CARDS.items()
        for c in card.claims
        if "recalled" in (c.value.source, c.baseline.source if c.baseline else None)
    }
    assert {k for k in recalled if k.startswith("magnitude:")} == {
        f"magnitude:{c.id}" for c in CARDS["magnitude"].claims if c.id not in ("lenet-300-100-rate", "lenet-5-rate")
    }
    assert recalled >= {"obs:monk1-weights", "soft-filter-pruning:resnet56-trained", "thinet:resnet50-50"}


@pytest.mark.parametrize("key", CARDS)
def test_cards_name_public_places_only(key: str) -> None:
    text = FILES[key].read_text(encoding="utf-8")
    assert not re.search(r"(?:^|[\s'\"])/[a-z]+/|\bfile id\b|\bstored\b", text, re.MULTILINE)
