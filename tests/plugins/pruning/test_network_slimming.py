from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from condensery import Registry, Run
from condensery.recipe import parse_recipe
from condensery.stage import BATCH_NORMS, Stage


class Looks(Run):
    """Keeps what the student's scales and shifts are when the stage ends."""

    def _close(self, stage: Stage) -> None:
        super()._close(stage)
        self.scales = {w.path: w.value.clone() for w in stage.weights(kinds=BATCH_NORMS)}
        self.shifts = {w.path: w.value.clone() for w in stage.weights(kinds=BATCH_NORMS, tensor="bias")}


def run(tmp_path: Path, **settings: Any) -> Looks:
    data = {
        "model": {"key": "resnet8", "width": 0.5},
        "task": "digits",
        "base": "none",
        "data": {"subset": {"size": 32}},
        "train": {"batch_size": 32, "epochs": 1, "optimizer": {"lr": 0.1}},
        "stages": [{"methods": [{"network-slimming": settings}]}],
    }
    job = Looks(parse_recipe(data), Registry.open(), out=tmp_path / "-".join(map(str, settings.values())))
    job.report = job.execute()  # type: ignore[attr-defined]
    return job


def test_the_penalty_pulls_each_scale_by_rate_times_factor(tmp_path: Path) -> None:
    """One SGD step from scale 1 at rate 0.1: with factor 0.5 each scale is 0.05 below that without."""
    with_penalty, without = run(tmp_path, sparsity=0.5, ratio=0.0), run(tmp_path, sparsity=0.0, ratio=0.0)
    for path, scale in without.scales.items():
        torch.testing.assert_close(scale - with_penalty.scales[path], torch.full_like(scale, 0.05), atol=1e-6, rtol=0)


def test_a_global_share_of_channels_goes(tmp_path: Path) -> None:
    """resnet8 at half width has 8 + 2 * (8 + 16 + 32) = 120 channels behind batch normalization: 30 % is 36."""
    job = run(tmp_path, sparsity=0.01, ratio=0.3)
    off = {p: s == 0 for p, s in job.scales.items()}
    assert sum(o.numel() for o in off.values()) == 120
    assert sum(int(o.sum()) for o in off.values()) == 36
    for path, gone in off.items():
        assert bool((job.shifts[path][gone] == 0).all())
    assert job.stages[-1]["report"]["network-slimming.channels_off_percent"] == pytest.approx(30.0)


def test_no_layer_is_emptied(tmp_path: Path) -> None:
    job = run(tmp_path, sparsity=0.01, ratio=0.95)
    assert all(bool((s != 0).any()) for s in job.scales.values())
