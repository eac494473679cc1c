from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import pytest
from condensery_plugins.cards import FOLDER, load_index
from condensery_plugins.cards.generate import main

from condensery import UsageError
from condensery.contract import Card, Registry, load_cards, settings_of
from condensery.recipe import parse
from condensery_plugins import METHODS

CARDS = load_cards(FOLDER)
WORDS = {float: "float", int: "int", bool: "bool", str: "str", dict: "dict", list: "list"}


def word_of(hint: Any) -> str:
    hint = next((part for part in get_args(hint) if type(None) in get_args(hint)), hint)  # int of int | None
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


def test_every_offered_method_has_a_card_and_the_other_way_round() -> None:
    methods = set(Registry.open().keys("methods"))
    built_in = {key for key, _ in METHODS}
    assert built_in <= methods
    assert built_in <= set(CARDS)
    tested = {key for key, card in CARDS.items() if card.status != "draft"}
    assert tested >= built_in
    assert all(CARDS[key].composition for key in tested - built_in)  # what other methods make up


@pytest.mark.parametrize("card", CARDS.values(), ids=list(CARDS))
def test_the_index_marks_every_figure(card: Card) -> None:
    claims = load_index()[card.key]["claims"]
    assert len(claims) == len(card.claims) > 0
    for claim in claims:
        for figure in (claim["value"], claim.get("baseline", claim["value"])):
            assert figure["source"] in ("read", "recalled", "derived"), claim["id"]
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
    assert recalled >= {"lsq:resnet18-w3a3", "lsq:resnet18-w4a4", "deep-mutual-learning:resnet32-cifar100"}


@pytest.mark.parametrize("card", [c for c in CARDS.values() if c.composition], ids=lambda c: c.key)
def test_compositions_can_be_read(card: Card) -> None:
    assert card.composition is not None
    assert parse(card.composition)


@pytest.mark.parametrize("card", CARDS.values(), ids=list(CARDS))
def test_cards_name_public_places_only(card: Card) -> None:
    text = (FOLDER / f"{card.key}.yaml").read_text(encoding="utf-8")
    assert not re.search(r"(?:^|[\s'\"])/[a-z]+/|\bfile id\b|\bstored\b", text, re.MULTILINE)


def test_the_index_is_up_to_date() -> None:
    assert main(["--check"]) == 0
    assert list(load_index()) == sorted(CARDS)


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    for path in FOLDER.iterdir():
        if path.suffix in (".yaml", ".json"):
            shutil.copy(path, tmp_path)
    return tmp_path


def test_check_names_the_stale_cards(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index = copied / "index.json"
    before = index.read_text(encoding="utf-8")
    card = copied / "lsq.yaml"
    card.write_text(card.read_text(encoding="utf-8").replace("status: tested", "status: draft"), encoding="utf-8")
    (copied / "qkd.yaml").unlink()
    assert main(["--check"], copied, index) == 1
    assert capsys.readouterr().err == "index.json is stale (lsq.yaml, qkd.yaml): say make cards\n"
    assert index.read_text(encoding="utf-8") == before
    assert main([], copied, index) == 0
    assert main(["--check"], copied, index) == 0
    assert json.loads(index.read_text(encoding="utf-8"))["lsq"]["status"] == "draft"


@pytest.mark.parametrize("damage", [None, "", "[]", "{"])
def test_a_damaged_index_is_stale(damage: str | None, copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index = copied / "index.json"
    index.unlink()
    if damage is not None:
        index.write_text(damage, encoding="utf-8")
    assert main(["--check"], copied, index) == 1
    assert "(index.json)" in capsys.readouterr().err


def test_a_wrong_card_writes_nothing(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index = copied / "index.json"
    before = index.read_bytes()
    (copied / "lsq.yaml").write_text("key: lsq\n", encoding="utf-8")
    assert main([], copied, index) == 2
    assert "lsq.yaml: name: Field required" in capsys.readouterr().err
    assert index.read_bytes() == before
    assert sorted(p.name for p in copied.iterdir() if p.suffix != ".yaml") == ["index.json"]


def test_an_unknown_option_writes_nothing(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index = copied / "index.json"
    index.write_text("{}", encoding="utf-8")
    assert main(["--chek"], copied, index) == 2
    assert "usage:" in capsys.readouterr().err
    assert index.read_text(encoding="utf-8") == "{}"


def test_the_index_needs_neither_torch_nor_yaml_nor_pydantic() -> None:
    code = (
        "import sys; from condensery import Registry; assert Registry.open().card('qkd')['ref'] == 75;"
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
