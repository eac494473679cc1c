"""The registry: what a plugin does wrong is one line that says what to write, and everything else still works."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tests.core.contract.toys import CARD, changed
from tests.core.helpers import offering

from condensery import Method, PluginError, Registry, UnknownKey, hookimpl
from condensery.contract import Register


class Sums(Method):
    key = "sums"


class Keyless(Method):
    pass


def opened(*plugins: object) -> Registry:
    """Open a registry of these plugins alone, named a, b, ..."""
    return Registry.open(zip("abcdef", plugins, strict=False), entry_points=False)


# ---------------------------------------------------------------- keys


def test_a_class_is_loaded_by_its_key() -> None:
    registry = opened(offering(methods={"sums": Sums}))
    assert registry.problems == []
    assert registry.load("methods", "sums") is Sums
    assert Sums().key == "sums"  # Also of one that no registry has loaded.


@pytest.mark.parametrize("kind", ["methods", "tasks", "layers", "codecs", "searches"])
@pytest.mark.parametrize(
    ("cls", "says"), [(Sums, "Sums says that its key is 'sums'"), (Keyless, "Keyless says no key")]
)
def test_a_class_with_another_key_is_refused(kind: str, cls: type, says: str) -> None:
    registry = opened(offering(**{kind: {"differences": cls}}))
    with pytest.raises(PluginError) as caught:
        registry.load(kind, "differences")
    what = "search" if kind == "searches" else kind.removesuffix("s")
    write = "write key = 'differences' in the class"
    assert str(caught.value) == f"plugin 'a': {what} 'differences': {says}; {write}"


def test_a_second_key_for_one_class_is_refused_and_the_first_works() -> None:
    registry = opened(offering(methods={"sums": Sums, "sums-again": Sums}))
    assert registry.load("methods", "sums") is Sums
    with pytest.raises(PluginError, match="Sums says that its key is 'sums'; write key = 'sums-again' in the class"):
        registry.load("methods", "sums-again")


def test_a_subclass_says_a_key_of_its_own() -> None:
    class Differences(Sums):
        pass

    registry = opened(offering(methods={"differences": Differences}))
    with pytest.raises(PluginError, match="Differences says that its key is 'sums'"):
        registry.load("methods", "differences")


def test_models_have_no_key_of_their_own() -> None:
    def build() -> None: ...

    registry = opened(offering(models={"toy": build, "zoo/*": build}))
    assert registry.load("models", "toy") is build
    assert registry.load("models", "zoo/anything") is build
    with pytest.raises(UnknownKey, match=r"unknown model 'zo/anything'; known: toy, zoo/\*"):
        registry.load("models", "zo/anything")


def test_what_is_no_class_is_refused_by_its_key_too(monkeypatch: pytest.MonkeyPatch) -> None:
    toys = ModuleType("toys")
    toys.made = Sums  # type: ignore[attr-defined]
    toys.number = 3  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "toys", toys)
    registry = opened(offering(methods={"sums": "toys:made", "three": "toys:number", "gone": "toys:gone"}))
    assert registry.load("methods", "sums") is Sums
    with pytest.raises(PluginError, match="method 'three': 3 says no key; write key = 'three' in the class"):
        registry.load("methods", "three")
    with pytest.raises(PluginError, match="plugin 'a': method 'gone' can't be loaded from toys:gone: module"):
        registry.load("methods", "gone")


def test_a_file_with_any_mistake_is_the_plugins_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    for name, text, says in (
        ("wrong_syntax", "def f(:", "SyntaxError: invalid syntax"),
        (
            "wrong_field",
            "import dataclasses\n@dataclasses.dataclass\nclass M:\n    a: list = []\n",
            "ValueError: mutable default",
        ),
    ):
        (tmp_path / f"{name}.py").write_text(text)
        registry = opened(offering(methods={"mine": f"{name}:M"}))
        with pytest.raises(PluginError, match=f"method 'mine' can't be loaded from {name}:M: {says}") as error:
            registry.load("methods", "mine")
        assert f"{name}.py" in str(error.value)
        assert len(str(error.value).splitlines()) == 1


# ---------------------------------------------------------------- plugins


class Stated:
    def __init__(self, **attributes: Any) -> None:
        vars(self).update(attributes)

    @hookimpl
    def register_methods(self, register: Register) -> None:
        register("sums", Sums)


@pytest.mark.parametrize(
    ("attributes", "says"),
    [
        ({}, "it doesn't state the hooks it was written for; write condensery_api = 1 in it"),
        ({"condensery_api": 2}, "written for version 2 of the hooks; this condensery has version 1"),
        ({"condensery_api": "1"}, "written for version '1' of the hooks; this condensery has version 1"),
    ],
)
def test_a_plugin_of_another_api_is_named_and_offers_nothing(attributes: dict[str, Any], says: str) -> None:
    registry = opened(Stated(**attributes), offering(methods={"differences": Sums}))
    assert registry.problems == [f"plugin 'a' (given): a: {says}"]
    assert registry.keys("methods") == ["differences"]
    assert opened(Stated(condensery_api=1)).problems == []


def test_a_key_that_is_taken_stays_with_the_first() -> None:
    class Other(Method):
        key = "sums"

    registry = opened(offering(methods={"sums": Sums}), offering(methods={"sums": Other, "differences": Other}))
    assert registry.problems == ["plugin 'b' (given): method 'sums' is already offered by 'a'; kept that one"]
    assert registry.load("methods", "sums") is Sums
    assert registry.keys("methods") == ["differences", "sums"]


@pytest.mark.parametrize("target", ["no_colon", 3, None])
def test_a_target_is_a_class_or_its_name(target: object) -> None:
    registry = opened(offering(layers={"toy": target, "mask": "somewhere:Mask"}))
    (problem,) = registry.problems
    assert f"layer 'toy': target must be 'module:Name' or a class, got {target!r}" in problem
    assert registry.keys("layers") == ["mask"]


@pytest.mark.parametrize("kind", [RuntimeError, SystemExit])
def test_a_hook_that_fails_is_one_short_line_and_the_others_count(kind: type[BaseException]) -> None:
    class Fails:
        condensery_api = 1

        @hookimpl
        def register_methods(self, register: Register) -> None:
            register("sums", Sums)

        @hookimpl
        def register_layers(self, register: Register) -> None:
            raise kind("several\nlines " + "and many words " * 100)

    registry = opened(Fails())
    (problem,) = registry.problems
    said = f"plugin 'a' (given): register_layers failed: {kind.__name__}: several lines and many words"
    assert problem.startswith(said)
    assert problem.endswith("many words and many words")
    assert len(problem) < 300
    assert registry.load("methods", "sums") is Sums


def test_two_plugins_of_one_name() -> None:
    plugins = [("a", offering(methods={"sums": Sums})), ("a", offering(methods={"differences": Sums}))]
    registry = Registry.open(plugins, entry_points=False)
    assert registry.problems == ["plugin 'a (given)' (given): a plugin named 'a' is already there"]
    assert registry.keys("methods") == ["sums"]


# ---------------------------------------------------------------- cards that a plugin gives as plain data


@pytest.mark.parametrize(
    ("card", "says"),
    [
        (changed("network", [["CNN"]]), "card 'sum-pruning': network.0: must be 'CNN', 'ViT', "),
        (changed("family", "pruing"), "card 'sum-pruning': family: unknown word 'pruing'; did you mean 'pruning'?"),
        (changed("key", "sums"), "card 'sum-pruning': its own key is 'sums'"),
        (None, "card 'sum-pruning': a card is a mapping"),
        ([CARD], "card 'sum-pruning': a card is a mapping"),
    ],
)
def test_a_wrong_card_is_named_and_left_out(card: Any, says: str) -> None:
    registry = opened(offering(papers={"sum-pruning": card, "right": CARD | {"key": "right"}}, methods={"sums": Sums}))
    (problem,) = registry.problems
    assert says in problem
    assert "\n" not in problem
    assert registry.keys("papers") == ["right"]
    assert registry.load("methods", "sums") is Sums


def test_the_installed_plugins_have_no_problems_and_their_classes_say_their_keys() -> None:
    registry = Registry.open()
    assert registry.problems == []
    for kind in ("methods", "tasks", "layers", "codecs", "searches"):
        for key in registry.keys(kind):
            assert registry.load(kind, key).key == key
