from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, Literal

import pytest
import torch
from tests.core.helpers import answered
from tests.plugins.distillation.pairings import each_pairing, taught
from torch import Tensor

from condensery.contract import hookimpl
from condensery.run import Stage
from condensery_plugins.distillation.fitnets import FitNets, hint_distance

RMSPROP = {"optimizer": {"name": "rmsprop", "lr": 0.001, "options": {}}}
BOTH = ({"name": "hint", "methods": ["fitnets"]}, {"name": "distil", "methods": [{"fitnets": {"phase": "distil"}}]})


@pytest.mark.parametrize(("reduction", "by_hand"), [("paper", 0.5 * 4 * 24), ("code", 0.5 * 4 * 3)])
def test_the_distance_by_hand(reduction: Literal["paper", "code"], by_hand: float) -> None:
    """All 2 x 3 x 4 numbers of an example are 2 apart; the height is 3."""
    hint = torch.randn(5, 2, 3, 4, dtype=torch.float64)
    assert float(hint_distance(hint + 2, hint, reduction)) == pytest.approx(by_hand)
    guess = torch.randn_like(hint, requires_grad=True)
    assert torch.autograd.gradcheck(lambda g: hint_distance(g, hint, reduction), (guess,))


@pytest.mark.parametrize(("rectified", "by_hand"), [(True, 0.5 * (4 + 1)), (False, 0.5 * (9 + 1))])
def test_the_hint_by_hand(rectified: bool, by_hand: float) -> None:
    """A regressor that turns signs guesses -1 and 4 where the hint is 2 and 3; behind a ReLU the first guess is 0."""

    def tapped(*values: float) -> Any:
        made = answered(torch.zeros(1, 2))
        made.taps = {"layer": torch.tensor(values)[None, None, :, None]}  # type: ignore[assignment]
        return made

    method = FitNets()
    method.guided_ = method.hint_ = "layer"
    method.regressor_, method.rectified_ = "fitnets-0", rectified
    turned = {"fitnets-0": lambda mine, theirs: (-mine, theirs)}
    terms = method.loss_terms(
        stage=SimpleNamespace(teachers=[SimpleNamespace(name="teacher")]),  # type: ignore[arg-type]
        outputs={"student": tapped(1.0, -4.0), "teacher": tapped(2.0, 3.0)},
        player=SimpleNamespace(name="student", helpers=turned),  # type: ignore[arg-type]
    )
    assert {name: float(term) for name, term in terms.items()} == {"hint": by_hand}
    assert method.task_weight() == 0.0


def test_the_soft_term_falls_along_a_line() -> None:
    """KL((1/4, 3/4) || (1/2, 1/2)) at T = 3, without T^2, times 4 at the start and 2.5 half way to 1."""
    method = FitNets(phase="distil")
    teacher = torch.tensor([[0.0, 3 * math.log(3)]]).repeat(4, 1)
    outputs = {"student": answered(torch.zeros(4, 2)), "teacher": answered(teacher)}

    def term(step: int) -> float:
        stage: Any = SimpleNamespace(teachers=[SimpleNamespace(name="teacher")], step=step, epochs=5, steps_per_epoch=4)
        return float(method.loss_terms(stage=stage, outputs=outputs, player=SimpleNamespace(name="student"))["kd"])  # type: ignore[arg-type]

    apart = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    assert term(0) == pytest.approx(4 * apart, rel=1e-5)
    assert term(10) == pytest.approx(2.5 * apart, rel=1e-5)
    assert method.task_weight() == 1.0


@each_pairing
def test_both_stages_between_unlike_nets(pairing: str, tmp_path: Path) -> None:
    run, _ = taught(pairing, tmp_path / "run", *BOTH, **RMSPROP)
    hint, distil = (stage["history"][-1]["terms"] for stage in run.stages)
    assert list(hint) == ["student.fitnets.hint"]
    assert hint["student.fitnets.hint"] > 0
    assert set(distil) == {"student.task", "student.fitnets.kd"}


class Watched(FitNets):
    """Keeps what the student was before and behind the hint stage, and what it had beside."""

    key = "fitnets"
    seen: ClassVar[list[Any]]

    @hookimpl
    def end_stage(self, stage: Stage) -> None:
        student = stage.student
        Watched.seen = [
            {name: value.clone() for name, value in student.module.state_dict().items()},
            student.helpers[self.regressor_],
            stage,
            self.rectified_,
        ]


def test_the_upper_half_is_frozen_with_its_statistics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("condensery_plugins.distillation.fitnets.FitNets", Watched)
    untrained = taught("CNN from CNN", tmp_path / "none", {"name": "none", "methods": [], "epochs": 0})[1].state_dict()
    _, after = taught("CNN from CNN", tmp_path / "run", BOTH[0], **RMSPROP)
    values, regressor, stage, rectified = Watched.seen

    def moved(now: dict[str, Tensor]) -> set[str]:
        return {name.partition(".")[0] for name, value in now.items() if not torch.equal(value, untrained[name])}

    assert moved(values) == {"conv1", "bn1", "layer1", "layer2"}  # layer3 and linear as they were, buffers too
    assert rectified  # the hint comes out of a ReLU
    assert regressor.project.weight.shape == (32, 16, 1, 1)
    assert len(stage.student.helpers) == 0
    assert all(p.requires_grad for p in after.parameters())


def test_named_layers_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("condensery_plugins.distillation.fitnets.FitNets", Watched)
    settings = {"hint": "layer1.0.conv2", "guided": "layer1.0"}
    taught("CNN from CNN", tmp_path / "run", {"name": "hint", "methods": [{"fitnets": settings}]}, **RMSPROP)
    _, regressor, _, rectified = Watched.seen
    assert not rectified  # a convolution's output has both signs
    assert regressor.project.weight.shape == (16, 8, 1, 1)
