from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.core.helpers import Inputs, recipe
from torch import Tensor

from condensery import Batch, NotApplicable, Registry, UnknownKey
from condensery.nets import TapValues
from condensery.run import Outputs
from condensery.testing import NETWORKS, play
from condensery_plugins.distillation.be_your_own_teacher import BeYourOwnTeacher, Branch

TASK = Inputs(torch.zeros)


def terms(method: BeYourOwnTeacher, deep: Tensor, shallow: Tensor, features: Tensor, goal: Tensor) -> dict[str, Tensor]:
    """Return a method's terms for two shallow branches that give the same, with labels 0 and 1."""
    method.paths_ = ["one", "two", "deepest"]
    batch = Batch(torch.zeros(2, 1), torch.tensor([0, 1]))
    taps = TapValues({p: [goal] for p in method.paths_}, {p: [goal._version] for p in method.paths_}, set())
    helpers = {f"branch{n}": lambda mine, deepest, inputs: (features, deepest, shallow) for n in (1, 2)}
    player: Any = SimpleNamespace(name="student", helpers=helpers)
    outputs = {"student": Outputs(deep, TASK, batch, taps)}
    stage: Any = SimpleNamespace(task=TASK)
    return method.loss_terms(stage=stage, batch=batch, outputs=outputs, player=player)


@pytest.mark.parametrize(
    ("order", "apart"),
    [
        ("deep-first", 0.25 * math.log(0.5) + 0.75 * math.log(1.5)),
        ("shallow-first", 0.5 * math.log(2) + 0.5 * math.log(2 / 3)),
    ],
)
def test_the_loss_by_hand(order: Any, apart: float) -> None:
    """Two branches; alpha = 0.25, T = 2: 0.75 ln 2, 0.25 * 4 * KL, and 0.1 times the mean of 3 and 12."""
    method = BeYourOwnTeacher(alpha=0.25, T=2.0, hint=0.1, order=order)
    deep = torch.tensor([[0.0, 2 * math.log(3)]]).repeat(2, 1)
    goal = torch.zeros(2, 3, 1, 1)
    features = torch.tensor([1.0, 2.0])[:, None, None, None].expand(2, 3, 1, 1)

    found = terms(method, deep, torch.zeros(2, 2), features, goal)
    by_hand = {"kd": 0.25 * 4 * apart, "hint": 0.1 * (3 + 12) / 2, "labels": 0.75 * math.log(2)}
    assert {name: float(term) for name, term in found.items()} == {
        name: pytest.approx(2 * value, rel=1e-5) for name, value in by_hand.items()
    }


@pytest.mark.parametrize("order", ["deep-first", "shallow-first"])
def test_gradients_reach_the_shallow_part_alone_and_are_right(order: Any) -> None:
    """Or the deepest classifier would be pulled to the shallow ones; checked against differences in float64."""
    torch.manual_seed(0)
    deep, shallow = (torch.randn(2, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    features, goal = (torch.randn(2, 3, 2, 2, dtype=torch.float64, requires_grad=True) for _ in range(2))
    method = BeYourOwnTeacher(alpha=0.25, hint=0.1, order=order)

    def total(shallow: Tensor, features: Tensor) -> Tensor:
        found = terms(method, deep, shallow, features, goal)
        return found["kd"] + found["hint"] + found["labels"]

    total(shallow, features).backward()  # type: ignore[no-untyped-call]
    assert deep.grad is None
    assert goal.grad is None
    assert shallow.grad is not None
    assert features.grad is not None
    assert torch.autograd.gradcheck(total, (shallow, features))


@pytest.mark.parametrize(
    ("mine", "deepest", "meet"),
    [
        ((3, 8, 8, 8), (3, 16, 2, 2), (3, 16, 2, 2)),  # two halvings
        ((3, 8, 8, 8), (3, 16, 8, 8), (3, 16, 8, 8)),
        ((3, 8, 7, 7), (3, 16, 4, 4), (3, 16, 4, 4)),
        ((3, 9, 8), (3, 9, 8), (3, 8, 9, 1)),  # tokens
        ((3, 20), (3, 8), (3, 8, 1, 1)),  # vectors
    ],
)
def test_a_branch_gives_features_of_the_deepest_ones_shape(mine: Any, deepest: Any, meet: Any) -> None:
    one, other = torch.randn(mine), torch.randn(deepest)
    features, goal, scores = Branch(one, other, 5)(one, other)
    assert features.shape == goal.shape == meet
    assert scores.shape == (3, 5)
    assert float(features.detach().min()) < 0
    assert float(Branch(one, other.relu(), 5)(one, other.relu())[0].detach().min()) == 0


@pytest.mark.parametrize("network", NETWORKS)
def test_at_the_end_the_net_is_as_it_was_built(network: Any, tmp_path: Path) -> None:
    """The shallow layers were moved by more than the task's loss, and nothing is left of the branches."""
    stages = [{"methods": ["be-your-own-teacher"]}]
    done = play(recipe(stages, **NETWORKS[network]), Registry.open(), tmp_path / "run")
    history = done.run.stages[-1]["history"][-1]["terms"]
    assert {f"student.be-your-own-teacher.{term}" for term in ("kd", "hint", "labels")} < set(history)
    assert all(value > 0 for value in history.values())
    assert not done.stage.student.helpers
    assert done.report["before"]["parameters"] == done.report["after"]["parameters"]


def test_what_has_no_two_stages_is_refused(tmp_path: Path) -> None:
    shallow = recipe([{"methods": ["be-your-own-teacher"]}], model={"key": "mlp", "hidden": [8]})
    with pytest.raises(NotApplicable, match=r"\['fc1'\] is no two stages"):
        play(shallow, Registry.open(), tmp_path / "run")


def test_stages_can_be_named(tmp_path: Path) -> None:
    def named(*paths: str) -> Any:
        return recipe([{"methods": [{"be-your-own-teacher": {"stages": list(paths)}}]}])

    assert play(named("relu", "layer3"), Registry.open(), tmp_path / "run").run.stages
    with pytest.raises(UnknownKey, match="layer3"):
        play(named("layer1", "layer33"), Registry.open(), tmp_path / "other")
