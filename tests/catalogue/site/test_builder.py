"""What the builder's page is told: the words of methods for each choice that changes them, nets, tasks, results."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import pytest
from tests.catalogue.matrix.made import matrix

from condensery import Registry
from condensery.contract import Method, Words, hookimpl
from condensery.tasks import TaskFacts
from condensery_catalogue.listing import own_registry
from condensery_catalogue.matrix import Matrix
from condensery_catalogue.site.builder import as_files, cell_rules, method_rules, model_rules, words_by_choice


@pytest.fixture(scope="module")
def registry() -> Registry:
    return own_registry()


def words(rule: dict[str, Any]) -> list[tuple[Any, ...]]:
    """Return the cases of a method: what the settings that decide are, and what it needs, leaves and removes."""
    return [(*case["when"].values(), case["needs"], case["leaves"], case["removes"]) for case in rule["cases"]]


def test_words_are_told_for_each_choice_that_changes_them(registry: Registry) -> None:
    quantized, floats = ["quantized-activations", "quantized-weights"], ["float-weights"]

    qkd = method_rules("qkd", registry)
    assert qkd["by"] == {"phase": "self-study"}
    study = ["classifier-logits", "quantized-weights", "teacher"]
    assert words(qkd) == [
        ("self-study", floats, quantized, floats),
        ("co-study", study, [], []),
        ("tutor", study, [], []),
    ]
    assert qkd["roles"] == ["teacher"]
    assert qkd["acts_on"] == ["student", "teacher"]
    assert qkd["settings"]["weight_bits"] == {"type": "int", "default": 4, "ge": 2, "le": 8, "amount": "less"}

    # Its two settings decide together; a student's weights are ternary whatever the teacher's were.
    tnn = {row[:2]: row[2:] for row in words(method_rules("tnn", registry))}
    assert tnn["teacher", "real"] == (floats, ["quantized-activations"], [])
    assert tnn["teacher", "ternary"] == (floats, quantized, floats)
    assert (
        tnn["student", "real"]
        == tnn["student", "ternary"]
        == (["quantized-activations"], ["quantized-weights"], floats)
    )

    # How signs are drawn decides nothing, though it is a choice too.
    assert method_rules("binaryconnect", registry)["by"] == {"inference": "binary"}
    assert words(method_rules("magnitude", registry)) == [([], ["mask"], [])]


@dataclasses.dataclass(eq=False, kw_only=True)
class Choosy(Method):
    key: ClassVar[str] = "choosy"
    half: bool = False
    kind: str = "a"

    def __post_init__(self) -> None:
        if self.half and self.kind == "b":
            raise ValueError("not both")

    def words(self) -> Words:
        return Words(frozenset({"mask"} if self.half else ()), frozenset(), frozenset())


def test_choices_that_exclude_each_other_are_left_out() -> None:
    card = {"hyperparameters": {"kind": {"choices": ["a", "b"]}, "half": {}}}
    found = words_by_choice("choosy", Choosy, card)
    assert [tuple(choice.values()) for choice, _ in found] == [("a", False), ("a", True), ("b", False)]
    assert [sorted(words.needs) for _, words in found] == [[], ["mask"], []]


def test_a_method_that_can_not_be_had_says_why() -> None:
    class Broken:
        condensery_api = 1

        @hookimpl
        def register_methods(self, register: Any) -> None:
            register("gone", "no_such_module:Gone")

    registry = Registry.open([("broken", Broken())], entry_points=False)
    assert "no_such_module" in method_rules("gone", registry)["problem"]


def test_models_tell_which_tasks_they_take_and_what_holds_for_them(registry: Registry) -> None:
    image = TaskFacts("image", outputs=10, channels=1, size=8)
    facts = {"image": image, "text": TaskFacts("text", outputs=10, vocabulary=30, length=8)}
    fresh = ["dense-shape", "float-weights"]
    assert model_rules("resnet8", facts, registry) == {"kinds": ["image"], "words": ["batch-norm", *fresh]}
    assert model_rules("transformer", facts, registry) == {"kinds": ["text"], "words": ["attention", *fresh]}
    assert model_rules("mlp", facts, registry) == {"kinds": ["image"], "words": fresh}
    # A whole family of models is asked nothing: what would be built is not known.
    assert model_rules("timm/*", facts, registry) == {"kinds": []}


def test_the_script_is_json_behind_a_name() -> None:
    assert as_files({"b": "é", "a": [1, None]}) == {"data/rules.js": 'window.RULES = {"a":[1,null],"b":"é"};\n'}


def test_cells_are_letters_in_the_order_of_the_methods() -> None:
    assert cell_rules(matrix(), ["cut", "other", "round"]) == {
        "CNN": {"alone": ["w.w"], "then": ["..h", "...", "h.."], "with": ["..r", "...", "r.."]},
        # What follows there, that nothing goes with a method that is refused, stands in no row: no pair was run.
        "LSTM": {"alone": ["r.w"]},
    }
    assert cell_rules(Matrix(), ["cut"]) == {}
