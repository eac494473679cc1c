from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from condensery import NotApplicable, Registry, Run
from condensery.recipe import parse_recipe
from condensery_plugins.joint.prune_then_distill import PruneThenDistill, student_channels


def test_student_channels_by_hand() -> None:
    """Three 3x3 layers with 1,080, 14,400 and 28,800 weights left: 40, then 14400 / (9 * 40), then 28800 / (9 * 40)."""
    assert student_channels([1080, 14400, 28800]) == [40, 40, 80]
    assert student_channels([1]) == [1]


def test_student_channels_are_rounded_to_the_nearest() -> None:
    """100 / 27 = 3.7 gives 4, after which 86 / 36 = 2.4 gives 2; of grey images 95 / 9 = 10.6 gives 11."""
    assert student_channels([100, 86]) == [4, 2]
    assert student_channels([95], inputs=1) == [11]
    assert student_channels([95], kernel=25) == [1]


def test_an_unpruned_teacher_is_refused(tmp_path: Path) -> None:
    recipe = parse_recipe(
        {
            "model": {"key": "resnet8", "width": 0.5},
            "task": "digits",
            "base": "none",
            "train": {"batch_size": 16},
            "stages": [{"methods": ["prune-then-distill"], "teacher": "original"}],
        }
    )
    with pytest.raises(NotApplicable, match="teacher isn't pruned"):
        Run(recipe, Registry.open(), out=tmp_path / "o").execute()


def test_it_is_hintons_loss_with_the_authors_settings() -> None:
    method = PruneThenDistill()
    assert (method.T, method.alpha) == (10.0, 0.95)
    stage: Any = SimpleNamespace()
    assert method.task_weight(stage) == pytest.approx(0.05)
