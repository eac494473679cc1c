from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.core.helpers import answered

from condensery import NotApplicable, Registry
from condensery.testing import different_tensors, play, play_killed, small_recipe
from condensery_plugins.joint.qkd import QKD, IntervalQuantizer


def quantizer(bits: int, center: float, reach: float, *, signed: bool = True) -> IntervalQuantizer:
    made = IntervalQuantizer(bits, signed).double()
    with torch.no_grad():
        made.center.fill_(center)
        made.reach.fill_(reach)
    return made


def test_levels_by_hand() -> None:
    """Three bits signed: three sizes over the interval 0.2 .. 1.0; smaller ones are 0, larger ones 1.0."""
    values = torch.tensor([0.1, -0.2, 0.4, -0.6, 0.9, -5.0], dtype=torch.float64)
    got = quantizer(3, 0.6, 0.4)(values)  # shares 0, 0, 0.25, 0.5, 0.875, 1 of three sizes; half goes to the even one
    torch.testing.assert_close(got, torch.tensor([0.0, 0.0, 1 / 3, -2 / 3, 1.0, -1.0], dtype=torch.float64))


def test_unsigned_levels_by_hand() -> None:
    got = quantizer(2, 1.5, 1.5, signed=False)(torch.tensor([-1.0, 0.9, 2.2, 9.0], dtype=torch.float64))
    torch.testing.assert_close(got, torch.tensor([0.0, 1.0, 2.0, 3.0], dtype=torch.float64))


def test_the_interval_starts_at_smallest_and_largest_size() -> None:
    made = IntervalQuantizer(4).start(torch.tensor([-0.5, 0.1, 0.3]))
    assert float(made.center.detach()) == pytest.approx(0.3)
    assert float(made.reach.detach()) == pytest.approx(0.2)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_sizes_that_are_all_alike_are_kept(bits: int) -> None:
    """Of an interval from 0.2 to 0.2 every number would be the smallest, which becomes 0."""
    signs = torch.tensor([1.0, -1.0, -1.0])
    torch.testing.assert_close(IntervalQuantizer(bits).start(signs * 0.2)(signs * 0.2), signs * 0.2)
    same = torch.full((3,), 0.3)
    torch.testing.assert_close(IntervalQuantizer(bits, signed=False).start(same)(same), same)
    assert not IntervalQuantizer(bits).start(torch.zeros(3))(torch.zeros(3)).any()
    assert IntervalQuantizer(bits).start(torch.tensor([0.2, 0.3]))(torch.tensor([0.2, 0.3])).tolist()[0] == 0.0


def test_gradients_reach_weights_and_interval() -> None:
    """Inside, t = (|w| - c + d) / 2d and the value is t (c + d): d/dw = (c + d) / 2d times sign."""
    made = quantizer(4, 0.6, 0.4)
    values = torch.tensor([0.5, -0.7, 3.0], dtype=torch.float64, requires_grad=True)
    made(values).sum().backward()
    assert values.grad is not None
    torch.testing.assert_close(values.grad, torch.tensor([1.25, 1.25, 0.0], dtype=torch.float64))
    assert made.center.grad is not None
    assert made.reach.grad is not None


def test_settle_keeps_the_interval() -> None:
    made = quantizer(4, -3.0, -1.0)
    with torch.no_grad():
        made.settle(None)
    assert float(made.reach.detach()) > 0
    assert float((made.center + made.reach).detach()) > 0


def test_each_phase_gives_its_players_their_term() -> None:
    """T = 2: 4 KL(partner || mine); nothing in self-study."""
    outputs = {
        "student": answered(torch.zeros(2, 2)),
        "teacher": answered(torch.tensor([[0.0, 2 * math.log(3)]]).repeat(2, 1)),
    }

    def term(phase: Any, name: str) -> Any:
        return QKD(phase=phase, T=2.0).loss_terms(outputs=outputs, player=SimpleNamespace(name=name))  # type: ignore[arg-type]

    to_student = 4 * (0.25 * math.log(0.5) + 0.75 * math.log(1.5))
    to_teacher = 4 * (0.5 * math.log(2) + 0.5 * math.log(2 / 3))
    assert term("self-study", "student") is None
    assert float(term("co-study", "student")["kd"]) == pytest.approx(to_student, rel=1e-5)
    assert float(term("co-study", "teacher")["kd"]) == pytest.approx(to_teacher, rel=1e-5)
    assert float(term("tutor", "student")["kd"]) == pytest.approx(to_student, rel=1e-5)


def test_the_phases_need_what_they_say() -> None:
    assert QKD(phase="self-study").words().needs == {"float-weights"}
    assert "quantized-weights" in QKD(phase="tutor").words().needs


PHASES = [
    {"name": "self", "methods": ["qkd"], "epochs": 2},
    {
        "name": "co",
        "methods": [{"qkd": {"phase": "co-study"}}],
        "teacher": "original",
        "players": {"teacher": {"train": True, "optimizer": {"lr": 0.01}}},
        "epochs": 2,
    },
    {"name": "tutored", "methods": [{"qkd": {"phase": "tutor"}}], "teacher": "stage:co.teacher", "epochs": 2},
]


def test_the_teacher_trains_in_co_study_unless_it_may_not(tmp_path: Path) -> None:
    """A line without players trains it, at the student's rate; train=false is refused with what to write."""
    stages = [{**phase, "epochs": 1} for phase in PHASES[:2]]
    stages[1] = {name: said for name, said in stages[1].items() if name != "players"}
    done = play(small_recipe("CNN", stages), Registry.open(), tmp_path / "run")
    assert done.run.explain()["stages"][-1]["players"] == {"student": "trains", "teacher": "trains"}

    stages[1] = {**stages[1], "players": {"teacher": {"train": False}}}
    with pytest.raises(NotApplicable, match=r"add players=\{teacher=\{train=true\}\} to the stage's braces"):
        play(small_recipe("CNN", stages), Registry.open(), tmp_path / "refused")


@pytest.mark.parametrize("stage", [phase["name"] for phase in PHASES])
def test_a_run_killed_in_any_phase_ends_as_if_it_had_not_been(stage: str, tmp_path: Path) -> None:
    registry, recipe = Registry.open(), small_recipe("CNN", PHASES)
    whole = play(recipe, registry, tmp_path / "whole")

    play_killed(recipe, registry, tmp_path / "killed", stage)
    again = play(recipe, registry, tmp_path / "killed", resume=True)
    assert different_tensors(whole.student, again.student) == []
    assert [entry["name"] for entry in again.run.stages] == ["self", "co", "tutored"]
