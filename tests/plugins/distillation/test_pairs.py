"""A pair that can't work is refused, and one that is doubtful is said to be so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.core.helpers import offering, recipe
from torch import nn

from condensery import NotApplicable, Registry
from condensery.tasks import TaskFacts
from condensery.testing import play


def seven(facts: TaskFacts, name: str) -> nn.Module:
    """Build a linear net that tells seven classes apart, whatever the task."""
    return nn.Sequential(nn.Flatten(), nn.Linear(facts.height * facts.width, 7))


def report(
    folder: Path, student: Any, teacher: Any = "original", method: Any = "hinton-kd", **changes: Any
) -> dict[str, float]:
    stage = {"methods": [method], "student": student, "teacher": teacher, "epochs": 0}
    given = recipe([stage], **{"model": {"key": "mlp", "hidden": [16]}, **changes})
    done = play(given, Registry.open([("seven", offering(models={"seven": seven}))]), folder)
    found: dict[str, float] = done.run.stages[-1]["report"]
    return found


@pytest.mark.parametrize("method", ["hinton-kd", {"fitnets": {"phase": "distil"}}])
def test_a_teacher_of_other_classes_is_refused(method: Any, tmp_path: Path) -> None:
    with pytest.raises(NotApplicable, match="teacher tells 7 classes apart, the student 10"):
        report(tmp_path / "run", {"key": "mlp", "hidden": [8]}, {"key": "seven"}, method)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("method", "task", "net"),
    [
        ("attention-transfer", "digits", "resnet8"),
        ({"attention-transfer": {"by": "gradient"}}, "digits", "resnet8"),
        ("fsp", "digits", "resnet8"),
        ("fitnets", "digits", "resnet8"),
        ("diswot-similarity", "digits", "resnet8"),
        ("policy-distillation", "digits", "resnet8"),
        ("integral-kd-pose", "digits-keypoints", "heat-maps"),
    ],
    ids=str,
)
def test_further_teachers_are_refused_where_one_alone_would_teach(
    method: Any, task: str, net: str, tmp_path: Path
) -> None:
    with pytest.raises(NotApplicable, match="learns from one teacher, and the stage has 2"):
        report(tmp_path / "run", net, ["original", {"key": net, "seed": 1}], method, task=task, model={"key": net})


def test_several_teachers_still_teach_together_by_their_outputs(tmp_path: Path) -> None:
    net = {"key": "mlp", "hidden": [16]}
    assert report(tmp_path / "run", net, ["original", {**net, "seed": 1}]) == {}


def test_a_student_larger_than_its_teacher_is_told(tmp_path: Path) -> None:
    """64 inputs, 16 or 32 hidden units, 10 classes: 1,210 parameters against 2,410."""
    assert report(tmp_path / "run", {"key": "mlp", "hidden": [32]})["hinton-kd.student_larger_times"] == 2410 / 1210
    small = report(tmp_path / "small", {"key": "mlp", "hidden": [8]})
    assert "hinton-kd.student_larger_times" not in small


def test_a_teacher_worse_than_its_student_is_told(tmp_path: Path) -> None:
    """A net that trained for six epochs against one with random weights; the other way round nothing is said."""
    net = {"key": "mlp", "hidden": [16]}
    learnt = {"name": "learnt", "epochs": 6}
    last = {"methods": ["hinton-kd"], "epochs": 0}
    orders = {
        "worse": [{"name": "random", "student": net, "epochs": 0}, learnt, {**last, "teacher": "stage:random"}],
        "better": [learnt, {**last, "student": net, "teacher": "stage:learnt"}],
    }

    told = {}
    for name, stages in orders.items():
        given = recipe(stages, model=net, data={"subset": {"size": 128}})
        told[name] = play(given, Registry.open(), tmp_path / name).run.stages[-1]["report"]
    assert told["worse"]["hinton-kd.teacher_worse_points"] > 20
    assert told["better"] == {}
