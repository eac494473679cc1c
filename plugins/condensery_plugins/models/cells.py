"""A small detector: classes and a box for each cell of a grid."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from condensery.tasks import TaskFacts
from condensery_plugins.models.facts import builder, scaled
from condensery_plugins.tasks.squares import ANCHORS, CELL


class Detector(nn.Module):
    """Two convolutions, then classes and boxes for each cell.

    :param width: channels of the first convolution; the second one has twice as many.
    """

    def __init__(self, channels: int, classes: int, width: int = 8) -> None:
        super().__init__()
        first, second = nn.Conv2d(channels, width, 3, padding=1), nn.Conv2d(width, 2 * width, CELL, CELL)
        self.body = nn.Sequential(first, nn.ReLU(), second, nn.ReLU())
        self.classes, self.boxes = nn.Conv2d(2 * width, classes, 1), nn.Conv2d(2 * width, 4, 1)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return ``logits``, ``(batch, anchors, classes)``, and ``boxes`` in pixels, ``(batch, anchors, 4)``."""
        seen = self.body(images)
        corner = torch.arange(ANCHORS, device=images.device)
        start = CELL * torch.stack([corner % 3, corner // 3] * 2, 1)
        return {
            "logits": self.classes(seen).flatten(2).transpose(1, 2),
            "boxes": start + CELL * self.boxes(seen).flatten(2).transpose(1, 2).sigmoid(),
        }


@builder("cells")
def build(facts: TaskFacts, name: str, *, width: float = 1.0) -> nn.Module:
    """Build a detector whose convolutions have 8 and 16 channels, before ``width``."""
    return Detector(facts.channels, facts.outputs, scaled(width, 8))
