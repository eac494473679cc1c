from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from tests.core.helpers import answered, offering, recipe
from torch import Tensor

from condensery import Batch, Method, NotApplicable, Registry, Stage, UsageError, hookimpl
from condensery.testing import NETWORKS, play
from condensery_plugins.distillation.bucila_model_compression import BucilaModelCompression

SMALL = {"model": {"key": "mlp", "hidden": [16]}, "train": {"batch_size": 16}}


def stage(*teachers: str) -> Any:
    return SimpleNamespace(teachers=[SimpleNamespace(name=t) for t in teachers])


def taught(folder: Path, settings: dict[str, Any], **changes: Any) -> Any:
    own = {"methods": [{"bucila-model-compression": settings}, "watched"], "teacher": "original", "epochs": 3}
    registry = Registry.open([("watched", offering(methods={"watched": Watched}))])
    return play(recipe([own], **{**SMALL, **changes}), registry, folder)


class Watched(Method):
    """Keeps the batches of each epoch."""

    key = "watched"
    seen: ClassVar[list[tuple[int, Tensor, Any]]] = []

    @hookimpl
    def before_step(self, stage: Stage, batch: Batch) -> None:
        if not stage.dry:
            self.seen.append((stage.epoch, batch.inputs, batch.labels))


def test_the_loss_by_hand() -> None:
    """(1/2, 1/2) against the mean of (1/4, 3/4) and (0, 1): a distance of 3/8 in each class, on each of four rows."""
    method = BucilaModelCompression()
    outputs = {
        "student": answered(torch.zeros(4, 2)),
        "teacher": answered(torch.tensor([[0.0, math.log(3)]]).repeat(4, 1)),
        "teacher#2": answered(torch.tensor([[-100.0, 100.0]]).repeat(4, 1)),
    }
    player: Any = SimpleNamespace(name="student")
    terms = method.loss_terms(outputs=outputs, player=player, stage=stage("teacher", "teacher#2"))
    assert float(terms["scores"]) == pytest.approx(2 * (3 / 8) ** 2, rel=1e-5)
    assert method.task_weight() == 0


def test_the_gradient_against_differences_in_float64() -> None:
    torch.manual_seed(0)
    z, v = torch.randn(2, 3, 4, dtype=torch.float64).unbind()
    player: Any = SimpleNamespace(name="student")

    def loss(z: Tensor) -> Tensor:
        outputs = {"student": answered(z), "teacher": answered(v)}
        return BucilaModelCompression().loss_terms(outputs=outputs, player=player, stage=stage("teacher"))["scores"]

    assert torch.autograd.gradcheck(loss, (z.requires_grad_(),))


@pytest.mark.parametrize(
    ("settings", "expected"), [({"size": 50}, 82), ({"size": 50, "real": False}, 50), ({"pool": "data"}, 32)]
)
def test_an_epoch_is_as_long_as_the_tasks_and_has_no_labels(
    settings: dict[str, Any], expected: int, tmp_path: Path
) -> None:
    """32 examples in batches of 16: two steps. The pool has what was made, and the real ones."""
    Watched.seen.clear()
    done = taught(tmp_path / "run", {"examples": 32, **settings})
    assert done.run.stages[-1]["report"]["bucila-model-compression.pool_examples"] == expected
    assert [epoch for epoch, _, _ in Watched.seen] == [0, 0, 1, 1, 2, 2]
    assert all(labels is None and inputs.shape == (16, 1, 8, 8) for _, inputs, labels in Watched.seen)

    real = next(iter(done.stage.task.batches("train", batch_size=500, subset=done.stage.subset))).inputs.flatten(1)
    rows = torch.cat([inputs for _, inputs, _ in Watched.seen]).flatten(1)
    known = (rows[:, None] - real).abs().amax(2).amin(1) < 1e-5
    assert bool(known.all()) == (settings.get("pool") == "data")
    assert bool(known.any()) == settings.get("real", True)


def test_made_up_inputs_are_new_in_each_epoch_where_the_pool_is_large(tmp_path: Path) -> None:
    Watched.seen.clear()
    taught(tmp_path / "run", {"examples": 32, "size": 500, "real": False})
    epochs = [torch.cat([x for e, x, _ in Watched.seen if e == epoch]).flatten(1) for epoch in range(3)]
    assert len(epochs[0].unique(dim=0)) == 32  # type: ignore[no-untyped-call]
    for one, other in ((0, 1), (1, 2)):
        again = (epochs[one][:, None] - epochs[other]).abs().amax(2).amin(1) < 1e-6
        assert float(again.float().mean()) < 0.5


def test_inputs_that_are_no_numbers_are_refused_and_so_is_an_attribute_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(NotApplicable, match="no tensor of numbers"):
        taught(tmp_path / "text", {}, **NETWORKS["Transformer"])
    with pytest.raises(UsageError, match=r"nominal: an input has attributes 0 to 63, got \[64\]"):
        taught(tmp_path / "run", {"nominal": [64]})
