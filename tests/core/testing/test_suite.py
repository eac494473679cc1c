"""The contract suite finds what it is there to find: methods that break the contract, and equality that could fail."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from condensery import Method, NotApplicable, PluginError, Registry, UnknownKey, hookimpl
from condensery.contract import Register
from condensery.run import Stage
from condensery.storage import load_tree, save_tree
from condensery.testing import (
    NETWORKS,
    Case,
    L2Decay,
    Reference,
    cases_of,
    chosen_methods,
    different_tensors,
    hooks_left,
    one_each,
    play,
    play_killed,
    test_contract,
)


@dataclasses.dataclass(eq=False, kw_only=True)
class Leaves(Method):
    """Leaves a hook."""

    key = "leaves"

    @hookimpl
    def prepare(self, stage: Stage) -> None:
        stage.student.module.get_submodule("conv1").register_forward_hook(lambda module, args, output: None)


@dataclasses.dataclass(eq=False, kw_only=True)
class Forgets(Method):
    """Counts steps in an attribute that no checkpoint holds, and lets its loss depend on the count."""

    key = "forgets"

    @hookimpl
    def prepare(self, stage: Stage) -> None:
        self.steps = 0

    @hookimpl
    def loss_terms(self, stage: Stage) -> dict[str, Tensor]:
        self.steps += 1
        return {"l1": self.steps * 1e-3 * stage.weights()[0].latent.abs().sum()}


@dataclasses.dataclass(eq=False, kw_only=True)
class Takes(Method):
    """Takes away what it needs."""

    key = "takes"
    needs = removes = frozenset({"float-weights"})

    @hookimpl
    def report(self) -> dict[str, float]:
        return {}


class Bad:
    condensery_api = 1

    @hookimpl
    def register_methods(self, register: Register) -> None:
        for method in (Leaves, Forgets, Takes):
            register(method.key, method)


@pytest.fixture(scope="module")
def registry() -> Registry:
    return Registry.open([("contract-suite", Reference()), ("bad", Bad())])


def case(key: str, *networks: str, **contract: Any) -> Case:
    return Case(key, "CNN", {"network": networks, "contract": contract})


def test_a_resumed_run_without_the_optimizers_state_differs(registry: Registry, tmp_path: Path) -> None:
    recipe = case("l2-decay", "CNN").recipe(registry)
    whole = play(recipe, registry, tmp_path / "whole")
    play_killed(recipe, registry, tmp_path / "killed", "m")

    path = tmp_path / "killed" / "progress.safetensors"
    tree = load_tree(path)
    assert tree["players"]["student"]["optimizer"]
    tree["players"]["student"]["optimizer"] = {}
    save_tree(path, tree)

    other = play(recipe, registry, tmp_path / "killed", resume=True)
    assert different_tensors(whole.student, other.student)


def test_a_hook_that_is_left_is_found(registry: Registry, tmp_path: Path) -> None:
    clean = play(case("l2-decay", "CNN").recipe(registry), registry, tmp_path / "clean")
    assert hooks_left(clean.student) == []

    left = play(case("leaves", "CNN").recipe(registry), registry, tmp_path / "left")
    assert hooks_left(left.student) == ["conv1"]
    with pytest.raises(AssertionError):
        test_contract.test_it_runs_and_leaves_nothing_behind(left)


def test_a_method_that_forgets_is_found(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(PluginError, match=r"forgets: steps changed while the stage trained and isn't saved.*steps_"):
        play(case("forgets", "CNN").recipe(registry), registry, tmp_path / "whole")


def test_a_method_that_runs_where_its_card_does_not_name_is_found(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="l2-decay runs on a CNN: name it in the card, or raise NotApplicable"):
        test_contract.test_it_refuses_what_its_card_does_not_name(case("l2-decay", "ViT"), registry, tmp_path)


def test_another_reason_than_the_card_gives_is_found(registry: Registry, tmp_path: Path) -> None:
    """Slimming lacks batch normalization on a ViT."""
    right = Case("network-slimming", "ViT", {"network": ["CNN"], "contract": {"refuses": {"ViT": "batch norm"}}})
    test_contract.test_it_refuses_what_its_card_does_not_name(right, registry, tmp_path)
    wrong = dataclasses.replace(right, card={"contract": {"refuses": {"ViT": "no attention"}}})
    with pytest.raises(AssertionError, match="lacks batch normalization"):
        test_contract.test_it_refuses_what_its_card_does_not_name(wrong, registry, tmp_path)


def test_what_a_card_says_decides_where_a_method_applies() -> None:
    assert case("l2-decay", "CNN", "ViT").applies
    assert not case("l2-decay", "ViT").applies
    assert not case("l2-decay", "CNN", refuses={"CNN": "too small"}).applies
    assert not Case("l2-decay", "CNN", {}).applies


def test_a_card_may_bring_a_net_and_a_task_of_its_own(registry: Registry) -> None:
    nets = {"DQN": {"model": "mlp", "task": "xor"}, "CNN": {"model": "mlp", "task": "digits"}}
    own = case("l2-decay", "CNN", nets=nets)
    assert own.recipe(registry).model.key == "mlp"
    assert own.recipe(registry).task.key == "digits"
    other = dataclasses.replace(own, network="ViT").recipe(registry)
    assert other.model.key == "vit"
    assert dataclasses.replace(own, network="DQN").recipe(registry).task.key == "xor"

    found = [case.network for case in cases_of(registry, ["policy-distillation"])]
    assert found == ["CNN", "ViT", "Transformer", "DQN"]


def test_a_second_copy_is_refused_where_the_first_takes_what_it_needs(registry: Registry, tmp_path: Path) -> None:
    assert not case("l2-decay", "CNN").refuses_itself(registry)
    takes = case("takes", "CNN")
    assert takes.refuses_itself(registry)
    with pytest.raises(NotApplicable, match="takes#2 is not applicable"):
        play(takes.recipe(registry, "takes"), registry, tmp_path / "run")


def test_a_stage_gets_the_roles_that_its_method_needs(registry: Registry) -> None:
    (plain,) = case("l2-decay", "CNN").recipe(registry).dump()["stages"]
    assert "teacher" not in plain
    (taught,) = case("hinton-kd", "CNN").recipe(registry).dump()["stages"]
    assert taught["teacher"] == "original"

    before = [{"name": "first", "methods": ["magnitude"], "epochs": 0}]
    odd = case("hinton-kd", "CNN", before=before, stage={"teacher": "stage:first"})
    first, taught = odd.recipe(registry, L2Decay.key).dump()["stages"]
    assert (first["name"], taught["teacher"]) == ("first", "stage:first")
    assert [method["key"] for method in taught["methods"]] == ["hinton-kd", "l2-decay"]


def test_methods_are_chosen_by_plugin_and_by_key(registry: Registry) -> None:
    assert chosen_methods(registry, ["bad"]) == ["forgets", "leaves", "takes"]
    assert chosen_methods(registry, ["bad"], ["lsq"]) == ["forgets", "leaves", "lsq", "takes"]
    assert {"forgets", "l2-decay", "lsq"} <= set(chosen_methods(registry))
    assert [(c.key, c.network) for c in cases_of(registry, ["lsq"])] == [
        ("lsq", "CNN"),
        ("lsq", "ViT"),
        ("lsq", "Transformer"),
    ]
    with pytest.raises(UnknownKey, match="unknown plugin 'builtn'; did you mean 'builtin'"):
        chosen_methods(registry, ["builtn"])
    with pytest.raises(UnknownKey, match="unknown method 'lsqq'"):
        chosen_methods(registry, [], ["lsqq"])


def test_dear_laws_are_tried_on_one_network_of_each_method_and_on_all_together(registry: Registry) -> None:
    keys = chosen_methods(registry, ["builtin"])
    applying = [c for c in cases_of(registry, keys) if c.applies]
    few = one_each(applying)
    assert [c.key for c in few] == list(dict.fromkeys(c.key for c in applying))
    suites = set(NETWORKS)
    assert {c.network for c in few} & suites == {c.network for c in applying} & suites == suites
    assert one_each(cases_of(registry, ["lsq"])) == [c for c in few if c.key == "lsq"]


def test_a_plugin_with_a_problem_is_not_tried() -> None:
    """One of its methods may be missing because of it."""

    class Unstated:
        @hookimpl
        def register_methods(self, register: Register) -> None:
            register("l2-decay", L2Decay)

    found = Registry.open([("unstated", Unstated())], entry_points=False)
    with pytest.raises(PluginError, match=r"plugin 'unstated': .* write condensery_api = 1"):
        chosen_methods(found, ["unstated"])
