"""Papers are found in the folders of a package, a wrong card is named and left out, a valid one comes from a cache."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from tests.core.contract.toys import text_of, write_package

from condensery import Registry
from condensery.contract import Papers

NAME = "toy_folders"
METHOD = """
from condensery import Method

class Sums(Method):
    key = "sum-pruning"

class Mask:
    key = "toy-mask"
"""
SHARED = "class Grid:\n    key = 'toy-grid'\n\n\nclass Code:\n    key = 'toy-code'\n"
CARDS = {
    "sum_pruning.py": METHOD,
    "sum_pruning.yaml": text_of(
        "sum-pruning",
        **{"class": "Sums"},
        layers={"toy-mask": "Mask", "toy-grid": "shared:Grid"},
        codecs={"toy-code": "shared:Code"},
    ),
    "shared.py": SHARED,
    "deeper/only_a_card.yaml": text_of("only-a-card"),
}
Write = Callable[[Mapping[str, str]], Path]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CONDENSERY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "cards"


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Write files into an importable package, and return its folder."""
    monkeypatch.syspath_prepend(str(tmp_path / "site"))

    def write_files(files: Mapping[str, str]) -> Path:
        write_package(tmp_path / "site" / NAME, files)
        return tmp_path / "site" / NAME

    yield write_files
    for module in [module for module in sys.modules if module.split(".")[0] == NAME]:
        del sys.modules[module]


def opened() -> Registry:
    return Registry.open([("toys", Papers(NAME))], entry_points=False)


def offers(registry: Registry, kind: str) -> dict[str, object]:
    return {key: entry.target for key, entry in registry.entries[kind].items() if entry.plugin == "toys"}


def test_cards_name_methods_layers_and_codecs(write: Write) -> None:
    write(CARDS)
    registry = opened()
    assert registry.problems == []
    assert registry.keys("papers") == ["only-a-card", "sum-pruning"]
    assert offers(registry, "methods") == {"sum-pruning": f"{NAME}.sum_pruning:Sums"}
    assert offers(registry, "layers") == {"toy-mask": f"{NAME}.sum_pruning:Mask", "toy-grid": f"{NAME}.shared:Grid"}
    assert offers(registry, "codecs") == {"toy-code": f"{NAME}.shared:Code"}
    assert registry.load("methods", "sum-pruning").__name__ == "Sums"
    assert registry.load("layers", "toy-grid").__name__ == "Grid"


def test_siblings_are_those_of_the_cards_own_folder(write: Write) -> None:
    write({f"deeper/{name}": text for name, text in CARDS.items() if "/" not in name})
    registry = opened()
    assert registry.problems == []
    assert offers(registry, "layers")["toy-grid"] == f"{NAME}.deeper.shared:Grid"
    assert registry.load("methods", "sum-pruning").__module__ == f"{NAME}.deeper.sum_pruning"


def test_a_folder_with_a_recipe_is_a_reproduction_and_holds_no_card(write: Write) -> None:
    recipe = {"sums-at-2x/recipe.yaml": "model: m\n", "sums-at-2x/model.yaml": "not: a card\n", "readme.md": "no YAML"}
    write(recipe)
    registry = opened()
    assert registry.problems == []
    assert offers(registry, "recipes") == {"sums-at-2x": f"{NAME}:sums-at-2x/recipe.yaml"}
    assert registry.keys("papers") == []


def test_a_card_is_found_by_its_key(write: Write) -> None:
    root = write(CARDS)
    assert Papers(NAME).card_file("only-a-card") == root / "deeper" / "only_a_card.yaml"


WRONG = {
    "misnamed.yaml": (text_of("sum-pruning"), "the file must be named after its key, 'sum-pruning'"),
    "long.yaml": (text_of("x" * 999), "key: must have at most 64 characters"),
    "bounds.yaml": (
        text_of("bounds", hyperparameters={"x": {"type": "int", "default": None, "ge": 2, "le": 1, "meaning": "m"}}),
        "hyperparameters.x: no number is >= 2 and <= 1",
    ),
    "field.yaml": (
        text_of("field", hyperparameters={"x": {"type": "int", "default": 1, "most": 1, "meaning": "m"}}),
        "hyperparameters.x: unknown field 'most'; did you mean 'amount'?",
    ),
    "family.yaml": (text_of("family", family="pruing"), "family: unknown word 'pruing'; did you mean 'pruning'?"),
    "network.yaml": (text_of("network", network=[["CNN"]]), "network.0: must be 'CNN', 'ViT', "),
    "mapping.yaml": ("- 1\n", "a card is a mapping"),
    "broken.yaml": ("key: broken\nname: [1, 2\n", "line 3: not plain YAML: "),
    "date.yaml": (text_of("date") + "composition: 2024-01-01\n", "not plain YAML: Object of type date"),
    "circle.yaml": (text_of("circle") + "contract: {stage: &a {a: *a}}\n", "not plain YAML: a value holds itself"),
    "deep.yaml": (text_of("deep") + "contract: {stage: {a: " + "[" * 5000 + "}}\n", "not plain YAML: "),
    "deeper.yaml": (text_of("deeper") + f"contract: {{stage: {{a: {'[' * 600 + ']' * 600}}}}}\n", ""),
    "zero.yaml": ("\x00", "not plain YAML: unacceptable character #x0000"),
    "composed.yaml": (text_of("composed", composition="a ->"), "composition: expected a method, found the end"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_card_is_named_by_file_and_field_and_the_others_stay(wrong: str, write: Write) -> None:
    text, says = WRONG[wrong]
    write({**CARDS, wrong: text})
    for _ in range(2):  # The second time, the right ones come from the cache.
        registry = opened()
        (problem,) = registry.problems
        assert problem.startswith("plugin 'toys' (given): ")
        assert f"{wrong}: " in problem
        assert says in problem
        assert "\n" not in problem
        assert len(problem) < 300
        assert registry.keys("papers") == ["only-a-card", "sum-pruning"]
        assert registry.load("methods", "sum-pruning").key == "sum-pruning"


def test_bytes_that_are_no_text_are_named(write: Write) -> None:
    root = write(CARDS)
    (root / "latin.yaml").write_bytes("summary: L\xf6wen\n".encode("latin-1"))
    (problem,) = opened().problems
    assert "latin.yaml: can't be read: 'utf-8' codec" in problem


def test_a_long_message_keeps_its_beginning_and_its_end(write: Write) -> None:
    root = write({"long.yaml": text_of("long", hyperparameters={"r" * 600: 0.5})})
    (problem,) = opened().problems
    assert problem.startswith(f"plugin 'toys' (given): {root}"[:120])
    assert problem.endswith("must be a mapping, got 0.5")
    assert len(problem) < 300


def test_the_second_card_of_a_key_is_named_and_the_first_stays(write: Write) -> None:
    write({**CARDS, "zoo/sum_pruning.yaml": text_of("sum-pruning", name="Another")})
    registry = opened()
    (problem,) = registry.problems
    assert problem.endswith("zoo/sum_pruning.yaml: sum_pruning.yaml is the card of 'sum-pruning' already")
    assert registry.entries["papers"]["sum-pruning"].target["name"] == "Pruning by sums"


# ---------------------------------------------------------------- the cache


def test_what_was_valid_is_kept_and_what_changed_is_read_anew(write: Write, cache: Path) -> None:
    root = write(CARDS)
    assert opened().card("sum-pruning") == opened().card("sum-pruning")
    (kept,) = cache.iterdir()
    before = kept.stat().st_mtime_ns
    opened()
    assert kept.stat().st_mtime_ns == before

    (root / "sum_pruning.yaml").write_text(text_of("sum-pruning", name="Renamed"))
    renamed = opened().card("sum-pruning")
    assert renamed is not None
    assert renamed["name"] == "Renamed"
    assert [file.name for file in cache.iterdir()] == [kept.name]


def test_a_card_that_was_removed_is_gone(write: Write) -> None:
    root = write(CARDS)
    assert opened().keys("papers") == ["only-a-card", "sum-pruning"]
    (root / "deeper" / "only_a_card.yaml").unlink()
    assert opened().keys("papers") == ["sum-pruning"]


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"a": 1}', "null", "\x00"])
def test_a_damaged_cache_counts_as_none(damage: str, write: Write, cache: Path) -> None:
    write(CARDS)
    first = opened().card("sum-pruning")
    (kept,) = cache.iterdir()
    whole = kept.read_text()
    kept.write_text(damage)
    assert opened().card("sum-pruning") == first
    assert kept.read_text() == whole


@pytest.mark.parametrize("blocked", ["the cache", "its folder"])
def test_where_the_cache_cannot_be_written_cards_are_read(blocked: str, write: Write, cache: Path) -> None:
    write(CARDS)
    if blocked == "the cache":
        cache.parent.write_text("a file where the folder should be")
    else:
        cache.parent.mkdir()
        cache.write_text("a file where the folder should be")
    for _ in range(2):
        registry = opened()
        assert registry.problems == []
        assert registry.keys("papers") == ["only-a-card", "sum-pruning"]


LOADED = """
import sys
from condensery import Registry
registry = Registry.open()
assert registry.problems == [], registry.problems
assert registry.card("qkd")["ref"] == 75
assert "qkd" in registry.entries["methods"] and "qkd" in registry.entries["recipes"]
print([module for module in ("torch", "timm", "transformers", "yaml", "pydantic") if module in sys.modules])
"""


def test_opening_loads_no_torch_and_with_a_warm_cache_no_parser_either(cache: Path) -> None:
    environment = {**os.environ, "CONDENSERY_CACHE": str(cache)}
    loaded = [
        subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, check=True, env=environment)
        for _ in ("cold", "warm")
    ]
    assert [done.stdout.strip() for done in loaded] == ["['yaml', 'pydantic']", "[]"]
