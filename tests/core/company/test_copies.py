"""Players that are copies of the student, beside what methods leave on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from tests.core.company.examples import SelfTeacher
from tests.core.company.runs import run, run_also_killed
from tests.core.helpers import Act, recipe, registry

from condensery import UsageError, hookimpl
from condensery.nets import attached, clone, fill_from
from condensery.run import Player, Stage
from condensery.testing import different_tensors, hooks_left


class Looks(Act):
    """Keeps copies of all players after the first real step of a stage."""

    acts_on = ("all",)
    nets: ClassVar[dict[str, Any]] = {}

    @hookimpl
    def before_step(self, stage: Stage) -> None:
        if not stage.dry and stage.step == 0:
            self.nets.update({name: clone(player.module) for name, player in stage.players.items()})


KNOWN = registry(looks=Looks, **{"self-teacher": SelfTeacher})


def transforms(net: Any) -> list[tuple[str, str]]:
    return [(item.target, item.name) for item in attached(net)]


@pytest.mark.parametrize("order", [["lsq", "deep-mutual-learning"], ["deep-mutual-learning", "lsq"]])
def test_a_peer_beside_a_quantizer_has_the_same_quantizers(order: list[str], tmp_path: Path) -> None:
    """Whatever their order: sixteen or more, at the student's places; and weights of its own."""
    run_also_killed(recipe([{"methods": [*order, "looks"], "epochs": 2}]), KNOWN, tmp_path)
    student, peer = Looks.nets["student"], Looks.nets["peer#1"]
    assert transforms(peer) == transforms(student)
    assert len(transforms(peer)) >= 16
    assert not torch.equal(student.conv1.parametrizations.weight.original, peer.conv1.parametrizations.weight.original)


def test_a_peer_of_a_cut_student_is_cut(tmp_path: Path) -> None:
    stages = [{"methods": [{"l1-filter-pruning": {"ratio": 0.5}}, "deep-mutual-learning", "looks"], "epochs": 1}]
    _, watch = run(recipe(stages), KNOWN, tmp_path / "o")
    shapes = [[tuple(p.shape) for p in Looks.nets[name].parameters()] for name in ("student", "peer#1")]
    assert shapes[0] == shapes[1] == [tuple(p.shape) for p in watch.student.parameters()]


@pytest.mark.parametrize("quantizer", ["lsq", "kmeans-sharing"])
def test_a_self_copy_beside_a_quantizer(quantizer: str, tmp_path: Path) -> None:
    """It starts as the student, bit for bit, quantizers and all; it doesn't train, and it follows."""
    report, _ = run_also_killed(
        recipe([{"methods": ["self-teacher", quantizer, "looks"], "epochs": 2}]), KNOWN, tmp_path
    )
    assert transforms(Looks.nets["student"])
    assert different_tensors(Looks.nets["student"], Looks.nets["mean"]) == []
    terms = report["stages"][0]["history"]
    assert terms[0]["terms"]["student.self-teacher.apart"] > 0  # in eval mode the copy's outputs are others


def test_a_copy_has_no_taps_and_only_the_leading_numbers_of_a_larger_net() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(2, 2))
    player = Player("student", net, spec=recipe([]).model)
    player.tap("0")
    player.tap("0:input")
    twin = clone(net)
    assert hooks_left(net)
    assert hooks_left(twin) == []

    larger = torch.nn.Sequential(torch.nn.Linear(3, 3))
    fill_from(twin, larger)
    assert torch.equal(twin[0].weight, larger[0].weight[:2, :2])  # type: ignore[index]


@pytest.mark.parametrize(
    ("like", "says"), [("teacher", "player 'copy' is like 'teacher'; there are student"), ("copy", "is like 'copy'")]
)
def test_a_copy_of_nobody_is_refused(like: str, says: str, tmp_path: Path) -> None:
    class Copies(Act):
        @hookimpl
        def players(self, stage: Stage) -> list[Player]:
            return [stage.recruit("copy", like=like)]

    with pytest.raises(UsageError, match=says):
        run(recipe(["copies"]), registry(copies=Copies), tmp_path / "o")


def test_a_copy_has_no_net_in_prepare_but_may_be_tapped(tmp_path: Path) -> None:
    shapes: list[Any] = []

    class Copies(Act):
        @hookimpl
        def players(self, stage: Stage) -> list[Player]:
            return [stage.recruit("copy", like="student", trains=False)]

        @hookimpl
        def prepare(self, stage: Stage) -> None:
            stage.players["copy"].tap("features")
            assert list(stage.play(stage.sample(2)[0])) == ["student"]
            with pytest.raises(UsageError, match=r"'copy' has no net .* it is a copy of 'student'"):
                stage.weights("copy")

        @hookimpl
        def loss_terms(self, outputs: Any) -> None:
            shapes.append(tuple(outputs["copy"].taps["features"][0].shape))

    run(recipe(["copies"]), registry(copies=Copies), tmp_path / "o")
    assert shapes[-1] == (16, 32)
