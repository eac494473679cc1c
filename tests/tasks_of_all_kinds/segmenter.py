"""A segmenter: one class for each pixel, pixels that don't count, images that are wider than high."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tests.tasks_of_all_kinds.made import Made
from torch import Tensor, nn

from condensery import Batch
from condensery.tasks import Accumulated, Joined, Metric, TaskFacts

CLASSES, HEIGHT, WIDTH, IGNORED = 3, 6, 10, 255


class Segmentation(Made):
    """Which channel is the brightest here? The border of each image doesn't count."""

    key = "made-segmentation"
    ignore_index = IGNORED
    metrics = (Metric("miou", "%", True), *Made.metrics)
    facts = TaskFacts("image", outputs=CLASSES, channels=CLASSES, height=HEIGHT, width=WIDTH)

    def make(self, examples: int, generator: torch.Generator) -> Sequence[Any]:
        images = torch.randn(examples, CLASSES, HEIGHT, WIDTH, generator=generator)
        labels = torch.full((examples, HEIGHT, WIDTH), IGNORED)
        labels[:, 1:-1, 1:-1] = images.argmax(1)[:, 1:-1, 1:-1]
        return list(zip(images, labels, strict=True))

    def batch(self, examples: Sequence[tuple[Tensor, Tensor]]) -> Batch:
        images, labels = zip(*examples, strict=True)
        return Batch(torch.stack(images), torch.stack(labels))

    def example(self, batch_size: int = 2) -> Tensor:
        return torch.randn(batch_size, CLASSES, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0))

    def meter(self) -> Joined:
        """Return the mean intersection over union in percent, and what all classifications have, of pixels."""
        from torchmetrics.classification import MulticlassJaccardIndex

        return Joined(
            Accumulated({"miou": (MulticlassJaccardIndex(CLASSES, ignore_index=IGNORED), 100)}), super().meter()
        )


def build(facts: TaskFacts, name: str) -> nn.Module:
    """Build two convolutions; outputs are ``(batch, classes, height, width)``."""
    first = nn.Conv2d(facts.channels, 8, 3, padding=1)
    return nn.Sequential(first, nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, facts.outputs, 1))
