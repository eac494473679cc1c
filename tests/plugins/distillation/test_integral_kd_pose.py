from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.core.helpers import answered, recipe
from torch import Tensor, nn

from condensery import NotApplicable, Registry
from condensery.errors import UnknownKey
from condensery.run import Outputs
from condensery.testing import play
from condensery_plugins.distillation.integral_kd_pose import IntegralKDPose, alike

KEY = IntegralKDPose.key
STAGE: Any = SimpleNamespace(teachers=[SimpleNamespace(name="teacher")])
ONE_POINT_EACH = torch.tensor([[[[1.0, 0.0]], [[0.0, 2.0]]]])
"""Two points whose heat maps, of one row and two columns, have nothing in common."""
SAME = torch.tensor([[[[3.0, 0.0]], [[1.0, 0.0]]]])


class Twice(nn.Module):
    """Stands in for the regressor: its guess is twice the student's feature."""

    def forward(self, mine: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
        return 2 * mine, theirs


def terms(maps: Tensor, wanted: Tensor, tap: Tensor, wanted_tap: Tensor, **settings: Any) -> dict[str, Tensor]:
    def outputs(tree: Tensor, value: Tensor) -> Outputs:
        made = answered(tree)
        made.taps = {"last": value}  # type: ignore[assignment]
        return made

    method = IntegralKDPose(**settings)
    method.pairs_, method.first_ = [("last", "last")], 0
    player: Any = SimpleNamespace(name="student", helpers={f"{KEY}-0": Twice()})
    return method.loss_terms(
        stage=STAGE, outputs={"student": outputs(maps, tap), "teacher": outputs(wanted, wanted_tap)}, player=player
    )


def taught(folder: Path, settings: dict[str, Any] | None = None, **changes: Any) -> Any:
    own = {"methods": [{KEY: settings or {}}], "teacher": "original", "student": {"key": "heat-maps", "width": 0.5}}
    what = {"model": "heat-maps", "task": "digits-keypoints", "train": {"epochs": 2, "batch_size": 16}, **changes}
    return play(recipe([{**own, **what.pop("stage", {})}], **what), Registry.open(), folder)


def test_how_alike_heat_maps_are_by_hand() -> None:
    assert alike(ONE_POINT_EACH).tolist() == [[[1, 0], [0, 1]]]
    assert alike(SAME).tolist() == [[[1, 1], [1, 1]]]


def test_the_terms_by_hand() -> None:
    """Heat maps: 4 + 0 + 1 + 4 over four numbers. Features: 2 against 5. Structure: two of four entries differ by 1."""
    found = terms(ONE_POINT_EACH, SAME, torch.ones(1, 1, 1, 1), torch.full((1, 1, 1, 1), 5.0))
    values = {name: float(term) for name, term in found.items()}
    assert values == pytest.approx({"maps": 9 / 4, "features": 0.1 * 9, "structure": 0.1 * 2 / 4})


def test_each_term_is_a_mean_over_the_batch_and_its_numbers() -> None:
    """Beside the example above stands one that is right in all, which halves each term; features have six numbers."""
    maps, wanted = torch.cat([ONE_POINT_EACH, SAME]), torch.cat([SAME, SAME])
    features, goal = torch.ones(2, 3, 1, 2), torch.full((2, 3, 1, 2), 5.0)
    goal[1] = 2.0
    found = terms(maps, wanted, features, goal)
    values = {name: float(term) for name, term in found.items()}
    assert values == pytest.approx({"maps": 9 / 8, "features": 0.1 * 9 / 2, "structure": 0.1 * 1 / 4})


def test_several_layers_have_the_mean_of_their_distances() -> None:
    """Guesses of 2 against 5 in eight numbers, and against 3 in one: distances 9 and 1, whose mean is 5."""
    made = []
    for large, small in ((1.0, 1.0), (5.0, 3.0)):
        made.append(answered(SAME))
        made[-1].taps = {"large": torch.full((1, 2, 2, 2), large), "small": torch.full((1, 1, 1, 1), small)}  # type: ignore[assignment]
    method = IntegralKDPose(features=1.0)
    method.pairs_, method.first_ = [("large", "large"), ("small", "small")], 0
    player: Any = SimpleNamespace(name="student", helpers={f"{KEY}-0": Twice(), f"{KEY}-1": Twice()})
    found = method.loss_terms(stage=STAGE, outputs=dict(zip(("student", "teacher"), made, strict=True)), player=player)
    assert float(found["features"]) == pytest.approx(5)


def test_the_gradient_against_differences_in_float64() -> None:
    torch.manual_seed(0)
    mine, theirs = torch.rand(2, 2, 3, 2, 2, dtype=torch.float64).unbind()
    features, wanted = torch.randn(2, 2, 4, 2, 2, dtype=torch.float64).unbind()

    def loss(maps: Tensor, features: Tensor) -> Tensor:
        found = terms(maps, theirs, features, wanted, features=1.0, structure=1.0)
        return torch.stack(list(found.values())).sum()

    assert torch.autograd.gradcheck(loss, (mine.requires_grad_(), features.requires_grad_()))


def test_a_smaller_net_learns_beside_hard_heat_maps(tmp_path: Path) -> None:
    done = taught(tmp_path / "run")
    last = done.run.stages[-1]["history"][-1]["terms"]
    assert set(last) == {"student.task", *(f"student.{KEY}.{name}" for name in ("maps", "features", "structure"))}
    assert all(value > 0 for value in last.values())
    assert set(done.report["after"]["quality"]) == {"pck", "distance", "loss"}
    assert not done.stage.student.helpers


def test_class_scores_are_no_heat_maps(tmp_path: Path) -> None:
    with pytest.raises(NotApplicable, match="the outputs are no heat maps"):
        taught(tmp_path / "run", task="digits", model="resnet8", stage={"student": "previous"})


def test_a_layer_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnknownKey, match="layer9"):
        taught(tmp_path / "run", {"layers": {"layer9": "layer2"}})
