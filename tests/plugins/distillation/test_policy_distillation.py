from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import save_file
from tests.core.helpers import answered, offering
from torch import Tensor, nn

from condensery import Batch, Method, NotApplicable, Registry, Stage, hookimpl
from condensery.recipe import parse_recipe
from condensery.testing import different_tensors, play, play_killed
from condensery_plugins.distillation.policy_distillation import PolicyDistillation, bellman
from condensery_plugins.distillation.replay import Replay
from condensery_plugins.tasks.control import CartPole

PLAYER: Any = SimpleNamespace(name="student")
STAGE: Any = SimpleNamespace(teachers=[SimpleNamespace(name="teacher")])
KEY = PolicyDistillation.key


def term(mine: Tensor, theirs: Tensor, **settings: Any) -> Tensor:
    outputs = {"student": answered(mine), "teacher": answered(theirs)}
    (found,) = PolicyDistillation(**settings).loss_terms(outputs=outputs, player=PLAYER, stage=STAGE).values()
    return found


def played(folder: Path, *stages: Any, registry: Registry | None = None, **changes: Any) -> Any:
    return play(small(*stages, **changes), registry or Registry.open(), folder)


def small(*stages: Any, **changes: Any) -> Any:
    train = {"epochs": 2, "batch_size": 16, "optimizer": {"name": "adam", "lr": 0.01}}
    what = {"model": {"key": "mlp", "hidden": [16]}, "task": {"key": "cartpole", "moves": 64}, "base": "none"}
    return parse_recipe({**what, "train": train, "stages": list(stages), **changes})


class Watched(Method):
    """Keeps the batches."""

    key = "watched"
    seen: ClassVar[list[Batch]] = []

    @hookimpl
    def before_step(self, stage: Stage, batch: Batch) -> None:
        if not stage.dry:
            self.seen.append(batch)


WATCHED = offering(methods={"watched": Watched})


# ---------------------------------------------------------------- losses


def test_the_teacher_is_sharpened_and_the_student_is_not() -> None:
    """Values that differ by 0.01 ln 3 are the policy (1/4, 3/4) at a temperature of 0.01; the student's stays at 1."""
    theirs = torch.tensor([[0.0, 0.01 * math.log(3)]]).repeat(4, 1)
    expected = 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)
    assert float(term(torch.zeros(4, 2), theirs)) == pytest.approx(expected, rel=1e-4)
    assert float(term(torch.tensor([[0.0, math.log(3)]]).repeat(4, 1), theirs)) == pytest.approx(0, abs=1e-6)


def test_large_values_do_not_overflow() -> None:
    found = term(torch.zeros(1, 2), torch.tensor([[500.0, 400.0]]))
    assert float(found) == pytest.approx(math.log(2))


def test_the_best_action_and_the_values_by_hand() -> None:
    """Two rows. NLL: the best action is the second, then the first, ln 4/3 and ln 4. MSE: 5 and 1."""
    mine = torch.tensor([[0.0, math.log(3)], [0.0, math.log(3)]])
    nll = term(mine, torch.tensor([[1.0, 2.0], [2.0, 1.0]]), loss="nll")
    assert float(nll) == pytest.approx((math.log(4 / 3) + math.log(4)) / 2, rel=1e-5)
    mse = term(torch.tensor([[0.0, 2.0], [3.0, 3.0]]), torch.tensor([[1.0, 0.0], [3.0, 4.0]]), loss="mse")
    assert float(mse) == pytest.approx((5 + 1) / 2)


@pytest.mark.parametrize("loss", ["kl", "nll", "mse"])
def test_the_gradient_against_differences_in_float64(loss: str) -> None:
    torch.manual_seed(0)
    mine, theirs = torch.randn(2, 3, 4, dtype=torch.float64).unbind()
    assert torch.autograd.gradcheck(lambda q: term(q, theirs, loss=loss, T=0.5), (mine.requires_grad_(),))


def test_what_a_move_is_worth_by_hand() -> None:
    """1 + 0.99 * 5, the better of the next state's values; 1 where the game was lost.

    A net that finds the other action better there is told what that one is worth, 1 + 0.99 * -3.
    """
    target, other = nn.Linear(4, 2), nn.Linear(4, 2)
    with torch.no_grad():
        for net, values in ((target, [5.0, -3.0]), (other, [1.0, 2.0])):
            net.weight.zero_()
            net.bias.copy_(torch.tensor(values))
    moves = {
        "seen": torch.zeros(2, 4),
        "later": torch.ones(2, 4),
        "action": torch.tensor([1.0, 0.0]),
        "earned": torch.ones(2),
        "lost": torch.tensor([False, True]),
    }
    batch = bellman(CartPole(64), target, moves, target)
    assert batch.labels[:, 0].tolist() == [1, 0]
    assert batch.labels[:, 1].tolist() == pytest.approx([1 + 0.99 * 5, 1])
    double = bellman(CartPole(64), target, moves, other)
    assert double.labels[:, 1].tolist() == pytest.approx([1 - 0.99 * 3, 1])


@pytest.mark.parametrize("double", [False, True])
def test_a_double_dqn_asks_the_net_itself_for_the_next_action(
    double: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen: list[tuple[nn.Module, nn.Module]] = []

    def noted(task: Any, target: nn.Module, moves: Any, chooses: nn.Module) -> Batch:
        chosen.append((target, chooses))
        return bellman(task, target, moves, chooses)

    monkeypatch.setattr("condensery_plugins.distillation.policy_distillation.bellman", noted)
    stage = played(tmp_path / "run", {"methods": [{KEY: {"phase": "dqn", "double": double}}], "epochs": 1}).stage
    assert chosen[-1] == (stage.players["target"].module, stage.players["student" if double else "target"].module)


def test_a_memory_forgets_the_oldest_and_goes_on_from_its_state() -> None:
    memory = Replay(4)
    memory.add(seen=torch.arange(3.0)[:, None], action=torch.zeros(3))
    assert len(memory) == 3
    memory.add(seen=torch.arange(3.0, 6.0)[:, None], action=torch.ones(3))
    other = Replay(4)
    other.load(memory.state())
    for one in (memory, other):
        drawn = one.draw(100, torch.Generator().manual_seed(0))
        assert sorted(set(drawn["seen"].flatten().tolist())) == [2, 3, 4, 5]
        assert torch.equal(drawn["action"], (drawn["seen"][:, 0] >= 3).float())
        one.add(seen=torch.full((1, 1), 6.0), action=torch.ones(1))
        assert sorted(one.parts["seen"].flatten().tolist()) == [3, 4, 5, 6]


# ---------------------------------------------------------------- in a stage


def test_a_student_comes_to_play_as_its_teacher(tmp_path: Path) -> None:
    """The teacher pushes the cart to where the pole falls."""
    falls = torch.tensor([0.0, 0, 1, 1])
    save_file({"fc1.weight": torch.stack([-falls, falls]), "fc1.bias": torch.zeros(2)}, tmp_path / "net.safetensors")
    teacher = {"key": "mlp", "hidden": [], "weights": str(tmp_path / "net.safetensors")}
    student = {"key": "mlp", "hidden": [8], "seed": 1}
    stage = {"methods": [{KEY: {"moves": 200}}], "teacher": "original", "student": student, "epochs": 15}
    done = played(tmp_path / "run", stage, model=teacher)

    assert 0.1 < done.run.stages[-1]["report"][f"{KEY}.teacher_gap_value"] < 5
    task = CartPole()
    assert task.evaluate(done.stage.teachers[0].module, "test")["return"] > 100
    assert task.evaluate(done.student.eval(), "test")["return"] > 60, "at random it is 22"


def test_the_gap_is_that_of_the_states_which_the_teacher_met() -> None:
    """Values -s and s, s the sum of the last two numbers: 0.3 + 0.2 in each state that was met, a gap of 1."""
    net = nn.Linear(4, 2)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[0.0, 0, -1, -1], [0, 0, 1, 1]]))
        net.bias.zero_()

    one = SimpleNamespace(name="teacher", module=net)
    stage: Any = SimpleNamespace(task=CartPole(64), teachers=[one], student=one, labels=False, seed=0, epoch=0)
    stage.device, stage.sample, stage.play = (
        "cpu",
        lambda number: [],
        lambda batch, players: {"teacher": answered(net(batch.inputs).detach())},
    )
    method = PolicyDistillation()
    method.memories = [Replay(8)]
    assert method.report(stage) == {}, "it hasn't played"
    method.memories[0].add(seen=torch.tensor([[5.0, 5.0, 0.3, 0.2]]))
    assert method.report(stage) == {"teacher_gap_value": pytest.approx(1.0)}


def test_batches_are_what_the_teacher_met_without_labels_and_of_one_game(tmp_path: Path) -> None:
    Watched.seen.clear()
    stage = {"methods": [KEY, "watched"], "teacher": "original"}
    played(
        tmp_path / "run",
        stage,
        registry=Registry.open([("watched", WATCHED)]),
        model={"key": "policies", "hidden": [], "own": [8]},
        task={"key": "control", "moves": 32},
    )
    assert len(Watched.seen) == 2 * 64 / 16
    assert all(batch.labels is None for batch in Watched.seen)
    games = [batch.inputs[:, -2:].unique(dim=0).tolist() for batch in Watched.seen]
    assert games == [[[1, 0]], [[0, 1]]] * 4


def test_a_net_learns_by_playing_and_the_base_may_be_trained_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copy is the net as it was; a run that was killed ends with the same bits, its memory included."""
    monkeypatch.setenv("CONDENSERY_CACHE", str(tmp_path / "cache"))
    dqn = {"methods": [{KEY: {"phase": "dqn", "sync": 3, "memory": 40}}]}
    what, registry = small({"name": "dqn", **dqn}), Registry.open()
    done = play(what, registry, tmp_path / "whole")
    assert set(done.stage.players) == {"student", "target"}
    assert different_tensors(done.student, done.stage.players["target"].module)
    assert done.run.stages[-1]["history"][-1]["terms"]["student.task"] > 0

    play_killed(what, registry, tmp_path / "run", "dqn")
    again = play(what, registry, tmp_path / "run", resume=True)
    assert different_tensors(done.student, again.student) == []

    taught = {"methods": [KEY], "teacher": "original", "student": {"key": "mlp", "hidden": [4]}}
    base = play(small(taught, base={**dqn, "epochs": 1, "batch_size": 16}), registry, tmp_path / "base")
    assert [stage["methods"] for stage in base.run.stages] == [[KEY], [KEY]]


def test_where_it_does_not_apply(tmp_path: Path) -> None:
    with pytest.raises(NotApplicable, match="a DQN learns by playing, and task 'digits' is no game"):
        played(tmp_path / "run", {"methods": [{KEY: {"phase": "dqn"}}]}, task="digits")
