"""Teacher and student of unlike architectures, which every method on layers inside is tried on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.core.helpers import Watch, recipe
from torch import nn

from condensery import Registry, Run

CNN = {"key": "resnet8", "width": 0.5}
VIT = {"key": "vit", "dim": 24, "depth": 3, "patch_size": 4}
PAIRINGS = {
    "CNN from CNN": ("digits", CNN, {"key": "resnet20", "width": 1.0}),
    "ViT from CNN": ("digits", VIT, {"key": "resnet8", "width": 1.0}),
    "CNN from ViT": ("digits", CNN, VIT),
    "shallow from deep Transformer": (
        "word-language",
        {"key": "transformer", "hidden": 24, "depth": 2},
        {"key": "transformer", "hidden": 48, "depth": 4},
    ),
}
"""By name: task, student, teacher."""
each_pairing = pytest.mark.parametrize("pairing", PAIRINGS)


def taught(
    pairing: str, folder: Path, *stages: Any, teacher: Mapping[str, Any] | None = None, **train: Any
) -> tuple[Run, nn.Module]:
    """Run stages in which a fresh student learns from an untrained teacher; return the run and the student.

    :param stages: of the recipe; the first starts the student, each has the teacher unless it says another.
    :param teacher: another than the pairing's.
    :param train: training settings that differ.
    """
    task, student, usual = PAIRINGS[pairing]
    first, *later = ({"teacher": "original", **stage} for stage in stages)
    changes = {"task": task, "model": dict(teacher or usual)}
    if train:
        changes["train"] = {"epochs": 1, "batch_size": 16, **train}

    watch = Watch()
    run = Run(
        recipe([{"student": student, **first}, *later], **changes),
        Registry.open(),
        out=folder,
        device="cpu",
        observer=watch,
    )
    run.execute()
    return run, watch.student
