from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.core.helpers import answered
from tests.plugins.distillation.pairings import PAIRINGS, taught
from torch import Tensor

from condensery.errors import NotApplicable
from condensery_plugins.distillation.fsp import FSP, flow

SLOW = {"optimizer": {"lr": 0.001, "options": {}}}
AS_WIDE: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "CNN from CNN": ({"key": "resnet20", "width": 0.5}, {}),
    "ViT from CNN": ({"key": "resnet8", "width": 1.5}, {"blocks.1": "layer1"}),
    "CNN from ViT": ({"key": "vit", "dim": 8, "heads": 2, "depth": 2, "patch_size": 4}, {"layer1": "blocks.0"}),
    "shallow from deep Transformer": ({"key": "transformer", "hidden": 24, "depth": 4}, {}),
}
"""By pairing: a teacher that has as many channels, and the layers where not all stages can be paired."""


def numbers(*rows: list[float]) -> Tensor:
    """Return maps of one example, a channel of 1 x 2 positions for each row."""
    return torch.tensor(rows, dtype=torch.float64)[None, :, None]


def taps(before: Tensor, after: Tensor) -> Any:
    return {"l:input": before, "l": after}


def test_a_matrix_by_hand() -> None:
    """The mean over both positions of each product of channels."""
    matrix = flow(taps(numbers([1, 2]), numbers([3, 4], [5, -6])), "l")
    torch.testing.assert_close(matrix, torch.tensor([[[(3 + 8) / 2, (5 - 12) / 2]]], dtype=torch.float64))
    smaller = flow(taps(numbers([1, 2, 9, 4]), numbers([3, 4])), "l")  # the maxima 2 and 9
    assert float(smaller) == (2 * 3 + 9 * 4) / 2


def term(mine: Tensor, theirs: Tensor, **settings: float) -> Tensor:
    """Return the term of two pairs of the same layer, whose input is 1 everywhere."""
    method = FSP(**settings)  # type: ignore[arg-type]
    method.pairs_ = [("l", "l"), ("l", "l")]
    outputs = {"student": answered(mine), "teacher": answered(theirs)}
    for found, maps in zip(outputs.values(), (mine, theirs), strict=True):
        found.taps = taps(torch.ones_like(maps[:, :1]), maps)
    stage: Any = SimpleNamespace(teachers=[SimpleNamespace(name="teacher")])
    player: Any = SimpleNamespace(name="student")
    return method.loss_terms(stage=stage, outputs=outputs, player=player)["flow"]


def test_the_distance_is_summed_over_entries_and_layers_and_averaged_over_examples() -> None:
    """Entries 1 and 3 apart in one example, 0 in the other: (1 + 9) / 2 for each of two layers."""
    theirs = torch.zeros(2, 2, 1, 2, dtype=torch.float64)
    mine = theirs.clone()
    mine[0, 0], mine[0, 1] = 1, 3
    assert float(term(mine, theirs)) == 10
    assert float(term(mine, theirs, weight=0.5)) == 5


def test_gradients() -> None:
    mine = torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    theirs = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda m: term(m, theirs), (mine,))


@pytest.mark.parametrize("pairing", PAIRINGS)
def test_both_stages_between_unlike_nets(pairing: str, tmp_path: Path) -> None:
    teacher, layers = AS_WIDE[pairing]
    first = {"name": "matrices", "methods": [{"fsp": {"layers": layers}}]}
    run, _ = taught(pairing, tmp_path / "run", first, {"name": "labels"}, teacher=teacher, **SLOW)
    matrices, labels = (stage["history"][-1]["terms"] for stage in run.stages)
    assert list(matrices) == ["student.fsp.flow"]
    assert matrices["student.fsp.flow"] > 0
    assert list(labels) == ["student.task"]


def test_the_classifier_is_not_touched(tmp_path: Path) -> None:
    teacher, _ = AS_WIDE["CNN from CNN"]
    _, before = taught("CNN from CNN", tmp_path / "none", {"name": "none", "epochs": 0}, teacher=teacher)
    _, after = taught("CNN from CNN", tmp_path / "run", {"methods": ["fsp"]}, teacher=teacher, **SLOW)
    old = before.state_dict()
    moved = {name.partition(".")[0] for name, value in after.state_dict().items() if not torch.equal(value, old[name])}
    assert moved == {"conv1", "bn1", "layer1", "layer2", "layer3"}


def test_other_widths_are_refused(tmp_path: Path) -> None:
    says = "layer1 of the student goes from 8 to 8 channels, layer1 of the teacher from 16 to 16"
    with pytest.raises(NotApplicable, match=says):
        taught("CNN from CNN", tmp_path / "run", {"methods": ["fsp"]})
