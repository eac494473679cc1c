"""A detector: boxes of different numbers as labels, two outputs, average precision."""

from __future__ import annotations

from tests.tasks_of_all_kinds.made import FEW
from torch import nn

from condensery.tasks import TaskFacts
from condensery_plugins.models.cells import Detector
from condensery_plugins.tasks.squares import ANCHORS, AveragePrecision, Squares

__all__ = ["ANCHORS", "AveragePrecision", "Detection", "Detector", "build"]


class Detection(Squares):
    """Few images."""

    key = "made-detection"
    sizes = FEW


def build(facts: TaskFacts, name: str) -> nn.Module:
    """Build a detector."""
    return Detector(facts.channels, facts.outputs)
