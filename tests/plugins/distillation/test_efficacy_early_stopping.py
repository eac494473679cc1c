from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.core.helpers import answered, offering, recipe

import condensery_reproductions
from condensery import Method, Registry, Stage, hookimpl
from condensery.recipe import load_recipe, load_yaml, set_values
from condensery.testing import different_tensors, play
from condensery_plugins.distillation.efficacy_early_stopping import EfficacyEarlyStopping

FOLDER = Path(condensery_reproductions.__file__).parent / "efficacy-early-stopping"
SMALL = {"model": {"key": "mlp", "hidden": [32]}}


def taught(folder: Path, method: dict[str, Any], epochs: int, **changes: Any) -> Any:
    stage = {"methods": [method], "teacher": "original", "student": {"key": "mlp", "hidden": [8]}, "epochs": epochs}
    return play(recipe([stage], **{**SMALL, **changes}), Registry.open(), folder)


@pytest.mark.parametrize(("epoch", "teaches"), [(0, True), (1, True), (2, False), (5, False)])
def test_the_loss_before_and_after_by_hand(epoch: int, teaches: bool) -> None:
    """A third of six epochs, T = 2, alpha = 0.75: 3 KL((1/4, 3/4) || (1/2, 1/2)) beside a quarter of the task."""
    method = EfficacyEarlyStopping(T=2.0, alpha=0.75, stop=1 / 3)
    stage: Any = SimpleNamespace(teachers=[SimpleNamespace(name="teacher")], dry=False, epoch=epoch, epochs=6)
    outputs = {
        "student": answered(torch.zeros(4, 2)),
        "teacher": answered(torch.tensor([[0.0, 2 * math.log(3)]]).repeat(4, 1)),
    }
    terms = method.loss_terms(outputs=outputs, player=SimpleNamespace(name="student"), stage=stage)  # type: ignore[arg-type]
    by_hand = 0.75 * 4 * (0.25 * math.log(0.5) + 0.75 * math.log(1.5))
    assert {name: float(term) for name, term in terms.items()} == (
        {"kd": pytest.approx(by_hand, rel=1e-5)} if teaches else {}
    )
    assert method.task_weight(stage) == (0.25 if teaches else 1.0)


@pytest.mark.parametrize(
    ("stop", "epochs", "last"),
    [(0.5, 5, 2), (0.07, 100, 6), (0.29, 100, 28), (0.0, 5, -1), (1.0, 5, 4)],
)
def test_the_share_is_rounded_up_to_whole_epochs(stop: float, epochs: int, last: int) -> None:
    """2.5 epochs of five are three. In floats 0.07 of a hundred is a bit more than 7, and 0.29 a bit less than 29."""
    method = EfficacyEarlyStopping(stop=stop)
    teaching = [n for n in range(epochs) if method.distils(SimpleNamespace(epoch=n, epochs=epochs))]  # type: ignore[arg-type]
    assert teaching == list(range(last + 1))


def test_the_student_goes_on_with_the_labels_alone(tmp_path: Path) -> None:
    history = taught(tmp_path / "run", {"efficacy-early-stopping": {"stop": 0.5}}, 4).run.stages[-1]["history"]
    last = [set(epoch["terms"]) for epoch in history]
    both = {"student.task", "student.efficacy-early-stopping.kd"}
    assert last == [both, both, {"student.task"}, {"student.task"}]
    assert history[0]["terms"]["student.efficacy-early-stopping.kd"] > 0


def test_stopped_at_the_end_it_is_plain_distillation(tmp_path: Path) -> None:
    """Bit for bit that of hinton-kd; stopped at half it is something else."""
    plain = taught(tmp_path / "plain", {"hinton-kd": {}}, 2).student
    whole = taught(tmp_path / "whole", {"efficacy-early-stopping": {"stop": 1.0}}, 2).student
    half = taught(tmp_path / "half", {"efficacy-early-stopping": {"stop": 0.5}}, 2).student
    assert different_tensors(plain, whole) == []
    assert different_tensors(plain, half)


def test_an_early_stopped_teacher_has_the_whole_schedule_of_rates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two epochs of two steps go down a cosine of four: 1, (1 + sqrt 1/2) / 2, 1/2, (1 - sqrt 1/2) / 2 of 0.1.

    A teacher of four epochs is half way down by then: its rates are those of eight steps.
    """
    monkeypatch.setenv("CONDENSERY_CACHE", str(tmp_path / "cache"))  # a teacher that is kept there trains no more
    seen: list[float] = []

    class Rates(Method):
        key = "rates"

        @hookimpl
        def before_step(self, stage: Stage) -> None:
            if not stage.dry:
                assert stage.student.optimizer is not None
                seen.append(stage.student.optimizer.param_groups[0]["lr"])

    stage = {"methods": ["hinton-kd"], "teacher": "original", "student": {"key": "mlp", "hidden": [8]}, "epochs": 0}
    base = {"methods": ["rates"], "batch_size": 16, "optimizer": {"lr": 0.1}, "schedule": {"name": "cosine"}}
    registry = Registry.open([("mine", offering(methods={"rates": Rates}))])
    for epochs in (2, 4):
        play(recipe([stage], **SMALL, base={**base, "epochs": epochs}), registry, tmp_path / str(epochs))

    root = math.sqrt(0.5)
    assert seen[:4] == pytest.approx([0.1, 0.05 * (1 + root), 0.05, 0.05 * (1 - root)])
    assert seen[4:] == pytest.approx([0.05 * (1 + math.cos(math.pi * step / 8)) for step in range(8)])


def test_both_shares_can_be_searched() -> None:
    """The space beside the recipe sets what its recipe has."""
    found, space = load_recipe(FOLDER / "search.yaml"), load_yaml(FOLDER / "space.yaml")
    assert space["objectives"] == {"validation.accuracy": "maximize"}
    changed = set_values(found.dump(), {path: values[0] for path, values in space["parameters"].items()})
    assert changed["base"]["epochs"] == 3
    assert changed["stages"][0]["methods"][0]["settings"]["stop"] == 0.25
