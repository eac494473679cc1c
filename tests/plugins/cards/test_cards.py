from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any, get_origin, get_type_hints

import pytest

from condensery import UsageError
from condensery.cards import load_cards
from condensery.methods import settings_of
from condensery.registry import Registry
from condensery_plugins import METHODS
from condensery_plugins.cards import FOLDER, load_index
from condensery_plugins.cards.generate import main

CARDS = load_cards(FOLDER)
WORDS = {float: "float", int: "int", bool: "bool", str: "str", dict: "dict", list: "list"}


def word_of(hint: Any) -> str:
    origin = get_origin(hint)
    return "str" if str(origin) == "typing.Literal" else WORDS[origin or hint]


@pytest.mark.parametrize("key", [key for key, _ in METHODS])
def test_card_and_class_agree(key: str) -> None:
    card, cls = CARDS[key], Registry.open().load("methods", key)
    fields, hints = settings_of(cls), get_type_hints(cls)
    assert set(card.hyperparameters) == set(fields)
    for name, described in card.hyperparameters.items():
        field = fields[name]
        made = field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
        assert described.default == made, name
        assert described.type == word_of(hints[name]), name


@pytest.mark.parametrize("key", CARDS)
def test_claims_say_where_they_are_from(key: str) -> None:
    for claim in CARDS[key].claims:
        if claim.value.source == "read":
            assert claim.value.where or claim.table, claim.id


def test_the_index_is_up_to_date() -> None:
    assert main(["--check"]) == 0
    assert list(load_index()) == sorted(CARDS)


def test_the_index_needs_neither_torch_nor_yaml_nor_pydantic() -> None:
    code = (
        "import sys; from condensery.registry import Registry; assert Registry.open().card('qkd')['ref'] == 75;"
        "print([m for m in ('torch', 'yaml', 'pydantic', 'timm', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_bad_cards_are_named(tmp_path: Path) -> None:
    text = (FOLDER / "lsq.yaml").read_text()
    for change, says in (
        (("levels: uniform", "levels: unform"), "taxonomy.levels"),
        (("status: tested", "state: tested"), "unknown field 'state'; did you mean 'status'"),
        (("source: recalled", "source: guessed"), "source"),
        (("id: resnet18-w3a3", "id: resnet18-w2a2"), "two claims have the id 'resnet18-w2a2'"),
    ):
        (tmp_path / "lsq.yaml").write_text(text.replace(*change, 1))
        with pytest.raises(UsageError, match=says):
            load_cards(tmp_path)
