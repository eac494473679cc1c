from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from tests.core.helpers import answered, offering, recipe
from torch import Tensor

from condensery import Method, Registry, hookimpl
from condensery.run import Stage
from condensery.testing import different_tensors, play
from condensery_plugins.distillation.snapshot_distillation import SnapshotDistillation

STAGE = SimpleNamespace(teachers=[SimpleNamespace(name="teacher")])
PAIR: Any = {"player": SimpleNamespace(name="student"), "stage": STAGE}
CYCLE = {"name": "cycle", "methods": ["snapshot-distillation", "look"], "teacher": "input", "epochs": 2}
CYCLES = [{"name": "first", "epochs": 2}, {"repeat": 2, "stages": [CYCLE]}]
TRAIN = {"batch_size": 16, "carry_optimizer": True, "optimizer": {"lr": 0.05, "options": {"momentum": 0.9}}}
COSINE = {"schedule": {"name": "cosine"}}


class Look(Method):
    """Writes down the learning rates, and each cycle's teacher and student as they were when it started."""

    key = "look"
    rates: ClassVar[list[float]] = []
    momentum: ClassVar[list[bool]] = []
    apart: ClassVar[list[list[str]]] = []
    frozen: ClassVar[list[bool]] = []

    @hookimpl
    def before_step(self, stage: Stage) -> None:
        optimizer, teacher = stage.student.optimizer, stage.teachers[0].module
        assert optimizer is not None
        if stage.dry:
            return
        self.rates.append(optimizer.param_groups[0]["lr"])
        if stage.step == 0:
            self.momentum.append(bool(optimizer.state))
            self.apart.append(different_tensors(stage.student.module, teacher))
            self.frozen.append(not teacher.training and not any(p.requires_grad for p in teacher.parameters()))


def test_the_loss_by_hand() -> None:
    """T = 2: KL((1/4, 3/4) || (1/2, 1/2)) without a factor, and labels at 1 + 1/2."""
    method = SnapshotDistillation(T=2.0, teacher_weight=3.0)
    soft = torch.tensor([[0.0, 2 * math.log(3)]]).repeat(4, 1)
    terms = method.loss_terms(outputs={"student": answered(torch.zeros(4, 2)), "teacher": answered(soft)}, **PAIR)
    by_hand = 3 * (0.25 * math.log(0.5) + 0.75 * math.log(1.5))
    assert float(terms["snapshot"]) == pytest.approx(by_hand, rel=1e-5)
    assert method.task_weight() == 1.5
    assert SnapshotDistillation(label_weight=0.5).task_weight() == 0.5


def test_only_the_teacher_is_softened() -> None:
    """The gradient is softmax(z) - softmax(v / T), per row; checked against differences in float64 too."""
    torch.manual_seed(0)
    z = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    v = torch.randn(3, 5, dtype=torch.float64)

    def loss(z: Tensor) -> Tensor:
        outputs = {"student": answered(z), "teacher": answered(v)}
        return SnapshotDistillation(T=4.0).loss_terms(outputs=outputs, **PAIR)["snapshot"]

    loss(z).backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(z.grad, (z.detach().softmax(1) - (v / 4).softmax(1)) / 3)
    assert torch.autograd.gradcheck(loss, (z,))


def test_each_cycle_is_taught_by_what_the_last_one_left(tmp_path: Path) -> None:
    """Two cycles of two epochs with two steps: the rate starts anew in each, momentum and weights go on."""
    registry = Registry.open([("look", offering(methods={"look": Look}))])
    done = play(recipe(CYCLES, train=TRAIN | COSINE), registry, tmp_path / "run")

    cycle = [0.05 / 2 * (1 + math.cos(math.pi * step / 4)) for step in range(4)]
    assert Look.rates == pytest.approx(cycle * 2)
    assert (Look.momentum, Look.apart, Look.frozen) == ([True] * 2, [[], []], [True] * 2)

    teacher = done.stage.players["teacher"].module
    assert different_tensors(done.student, teacher)
    terms = done.run.stages[-1]["history"][-1]["terms"]
    assert terms["student.snapshot-distillation.snapshot"] > 0
