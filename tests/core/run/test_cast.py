from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.core.helpers import Act, Watch, recipe, registry
from torch import Tensor

from condensery import Run, UsageError, hookimpl
from condensery.nets import same_numbers
from condensery.run import Reference, Stage


@pytest.mark.parametrize(
    ("role", "stage", "player"),
    [
        ("stage:a", "a", "student"),
        ("stage:a", "b", None),
        ("stage:a.peer#1", "a", "peer#1"),
        ("stage:a.teacher@epoch=2", "a", "teacher"),
        ("stage:a.b", "a.b", "student"),
        ("stage:a.b", "a", "b"),
        ("stage:a+b#2", "a+b#2", "student"),
    ],
)
def test_a_reference_names_a_player_of_one_stage(role: str, stage: str, player: str | None) -> None:
    assert Reference.parse(role).player_in(stage) == player


def test_a_reference_may_name_an_epoch() -> None:
    assert Reference.parse("stage:a.teacher@epoch=12") == Reference("stage:a.teacher@epoch=12", "a", "teacher", 12)
    assert Reference.parse("stage:a").epoch is None
    with pytest.raises(UsageError, match=r"^role 'stage:a@2': write stage:<name>\[\.<player>\]\[@epoch=N\]$"):
        Reference.parse("stage:a@2")


def test_an_unknown_player_is_named_before_anything_runs(tmp_path: Path) -> None:
    stages = [{"name": "a", "epochs": 3}, {"methods": ["hinton-kd"], "teacher": "stage:a.peer@epoch=2"}]
    with pytest.raises(UsageError, match="stage 'a' has no player 'peer'; it has student"):
        Run(recipe(stages), registry(), out=tmp_path / "o").execute()
    assert not (tmp_path / "o").exists()


def test_the_teacher_is_the_net_after_the_named_epoch(tmp_path: Path) -> None:
    seen: list[Tensor] = []
    got: list[Tensor] = []

    class Keeps(Act):
        @hookimpl
        def after_epoch(self, stage: Stage) -> None:
            if not stage.dry:
                seen.append(stage.weights()[0].latent.detach().clone())

    class Looks(Act):
        @hookimpl
        def prepare(self, stage: Stage) -> None:
            if not stage.dry:
                got.extend(stage.weights(p.name)[0].latent.detach().clone() for p in stage.teachers)

    stages = [
        {"name": "a", "methods": ["keeps"], "epochs": 3},
        {"methods": ["looks"], "teacher": ["stage:a@epoch=2", "stage:a"], "epochs": 0},
    ]
    Run(recipe(stages), registry(keeps=Keeps, looks=Looks), out=tmp_path / "o").execute()
    assert not torch.equal(seen[1], seen[2])
    assert [torch.equal(a, b) for a, b in zip(got, seen[1:], strict=True)] == [True, True]


def test_a_run_stopped_after_the_named_epoch_still_has_its_net(tmp_path: Path) -> None:
    stages = [{"name": "a", "epochs": 2}, {"methods": ["hinton-kd"], "teacher": "stage:a@epoch=1"}]
    watch = Watch(stop_after=1, where=lambda stage: stage.name == "a")
    with pytest.raises(KeyboardInterrupt):
        Run(recipe(stages), registry(), out=tmp_path / "o", observer=watch).execute()
    again, whole = Watch(), Watch()
    Run(recipe(stages), registry(), out=tmp_path / "o", resume=True, observer=again).execute()
    Run(recipe(stages), registry(), out=tmp_path / "whole", observer=whole).execute()
    assert same_numbers(again.student, whole.student)
