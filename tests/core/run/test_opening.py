from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file
from tests.core.helpers import Act, recipe, registry

from condensery import Run, UsageError
from condensery.nets import build_net
from condensery_plugins.tasks.digits import Digits


@dataclasses.dataclass(eq=False, kw_only=True)
class Counts(Act):
    n: int = 1


def rounds(value: Any, **settings: Any) -> dict[str, Any]:
    return {**settings, "stages": [{"name": "s", "methods": [{"counts": {"n": value}}]}]}


@pytest.mark.parametrize(
    ("item", "says"),
    [
        (rounds([1, 2, "three"], repeat=3), r"^s \[3/3\]: counts.n must be a whole number, got 'three'$"),
        (rounds("=max(1, round * 1.5)", repeat=4), r"^s \[2/4\]: counts.n must be a whole number, got 1.5$"),
        (rounds("=6 // (2 - round)", repeat=3), r"^s \[3/3\]: counts.n: formula .*: integer .*by zero$"),
        ({"repeat": 2, "stages": [rounds([1, 2, "three"], repeat=3)]}, r"^s \[3/3\]: counts.n must be"),
        (rounds([1, 2], repeat=3), r"^s: counts.n: a list gives one value for each round; 2 for 3 rounds$"),
    ],
)
def test_a_setting_of_a_late_pass_fails_before_anything_runs(item: Any, says: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=says):
        Run(recipe([item]), registry(counts=Counts), out=tmp_path / "o").execute()
    assert not (tmp_path / "o").exists()


def test_passes_that_may_not_come_are_not_checked(tmp_path: Path) -> None:
    """The fourth pass would have 1.5, but the round stops after the first."""
    item = rounds("=max(1, round / 2)", repeat=4, until="parameters > 0")
    report = Run(recipe([item]), registry(counts=Counts), out=tmp_path / "o").execute()
    assert len(report["stages"]) == 1


def test_where_weights_stand_in_for_trained_ones(tmp_path: Path) -> None:
    """In a dry run only: where a base is trained first, and behind a stage; not for a net of a stage's own."""
    seen: list[tuple[bool, bool]] = []

    class Looks(Act):
        def __post_init__(self) -> None:
            self.prepare_ = lambda stage: seen.append((stage.dry, stage.stands_in))

    own = {"methods": ["looks"], "student": {"key": "resnet8", "width": 0.5}, "epochs": 0}
    grown = {"methods": ["looks"], "student": {"key": "resnet8", "width": 0.5, "init_from": "student"}}
    stages = [{"methods": ["looks"], "epochs": 0}, {"methods": ["looks"]}, own, grown]

    def stands_in(**changes: Any) -> list[bool]:
        seen.clear()
        Run(recipe(stages, **changes), registry(looks=Looks), out=tmp_path / "o").check()
        return [stands for _, stands in seen]

    assert stands_in() == [False, True, False, True]
    assert stands_in(base={}) == [True, True, False, True]
    net = build_net(recipe([]).model, Digits().facts, registry(), 0)
    save_file(net.state_dict(), tmp_path / "net.safetensors")
    given = {"key": "resnet8", "width": 0.5, "weights": str(tmp_path / "net.safetensors")}
    assert stands_in(base={}, model=given) == [False, True, False, True]
    assert stands_in(base={"epochs": 1}, model=given) == [True, True, False, True]  # trained on from there
    seen.clear()
    Run(recipe(stages), registry(looks=Looks), out=tmp_path / "o").execute()
    assert seen[len(stages) :] == [(False, False)] * len(stages)
