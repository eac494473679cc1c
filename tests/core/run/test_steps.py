from __future__ import annotations

import pytest
import torch

from condensery.recipe import StageSpec, TrainSpec
from condensery.run import Stage, due_steps
from condensery.tasks import Subset
from condensery_plugins.tasks.digits import Digits


@pytest.mark.parametrize(
    ("parts", "due"),
    [(1, []), (2, [3]), (4, [2, 3, 4]), (6, [1, 2, 3, 4, 5]), (13, [0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 5])],
)
def test_parts_of_a_stage_are_due_evenly_and_all_before_its_last_batch(parts: int, due: list[int]) -> None:
    """Of 6 batches. A quarter of them is 1.5 and goes to 2, three quarters are 4.5 and go to 4; 12/13 are 5.5."""
    train = TrainSpec(batch_size=32, epochs=3)
    stage = Stage(StageSpec(name="s"), Digits(), train, seed=0, device=torch.device("cpu"), subset=Subset(64))
    assert stage.epochs * stage.steps_per_epoch == 6
    assert due_steps(stage, parts) == due
