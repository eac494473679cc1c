from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.core.helpers import answered, recipe

from condensery.contract import Registry, build_method
from condensery.errors import UsageError
from condensery.testing import play
from condensery_plugins.distillation.hinton_kd import HintonKD


def stage(*teachers: str) -> Any:
    return SimpleNamespace(teachers=[SimpleNamespace(name=t) for t in teachers])


def test_the_soft_term_by_hand() -> None:
    """T = 2, alpha = 0.75: 0.75 * 4 * KL((1/4, 3/4) || (1/2, 1/2)), beside a quarter of the task."""
    method = HintonKD(T=2.0, alpha=0.75)
    outputs = {
        "student": answered(torch.zeros(4, 2)),
        "teacher": answered(torch.tensor([[0.0, 2 * math.log(3)]]).repeat(4, 1)),
    }
    terms = method.loss_terms(outputs=outputs, player=SimpleNamespace(name="student"), stage=stage("teacher"))  # type: ignore[arg-type]
    by_hand = 0.75 * 4 * (0.25 * math.log(0.5) + 0.75 * math.log(1.5))
    assert float(terms["kd"]) == pytest.approx(by_hand, rel=1e-5)
    assert method.task_weight(stage()) == pytest.approx(0.25)


def test_of_several_teachers_the_mean_of_their_probabilities_teaches() -> None:
    """(1/4, 3/4) and (1, 0) at T = 2 have the mean (5/8, 3/8); the mean of their scores would be (1, 0)."""
    outputs = {
        "student": answered(torch.zeros(1, 2)),
        "teacher": answered(torch.tensor([[0.0, 2 * math.log(3)]])),
        "teacher#2": answered(torch.tensor([[500.0, 0.0]])),
    }
    both, player = stage("teacher", "teacher#2"), SimpleNamespace(name="student")
    terms = HintonKD(T=2.0, alpha=1.0).loss_terms(outputs=outputs, player=player, stage=both)  # type: ignore[arg-type]
    by_hand = 4 * (0.625 * math.log(1.25) + 0.375 * math.log(0.75))
    assert float(terms["kd"]) == pytest.approx(by_hand, rel=1e-5)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"T": 0}, "T must be > 0, got 0"),
        ({"T": "hot"}, "T must be a number"),
        ({"alpha": 1.5}, "alpha must be >= 0 and <= 1, got 1.5"),
        ({"Tee": 2}, "Tee"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        build_method("hinton-kd", HintonKD, settings, Registry.open().card("hinton-kd"))


STUDENT = {"student": {"key": "mlp", "hidden": [8]}, "teacher": "original"}


def taught(folder: Path, **settings: Any) -> Any:
    """Return a finished run of a student that never sees a 3; the teacher is random, and saw none either."""
    data = {"subset": {"size": 64, "without": [3]}}
    stages = [{"methods": [{"hinton-kd": settings}], **STUDENT, "data": data}]
    return play(recipe(stages, model={"key": "mlp", "hidden": [16]}), Registry.open(), folder)


def test_a_class_that_was_left_out_can_be_raised_at_the_end(tmp_path: Path) -> None:
    """The student's last bias of class 3 is 3.5 higher, and nothing else differs."""
    plain, raised = taught(tmp_path / "plain").student, taught(tmp_path / "raised", raised={"3": 3.5}).student
    torch.testing.assert_close(
        (raised.fc2.bias - plain.fc2.bias).detach(), torch.tensor([0.0, 0, 0, 3.5, 0, 0, 0, 0, 0, 0])
    )
    assert torch.equal(raised.fc1.weight, plain.fc1.weight)


def test_a_class_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"hinton-kd.raised: unknown class '13'"):
        taught(tmp_path / "run", raised={"13": 3.5})
