"""A small segmentation: one class for each pixel, pixels that don't count, images that are wider than high."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from condensery import Batch
from condensery.tasks import Accumulated, Joined, Metric, TaskFacts
from condensery_plugins.tasks.made import Made
from condensery_plugins.tasks.squares import BASE

CLASSES, HEIGHT, WIDTH, IGNORED = 3, 6, 10, 255


class Brightest(Made):
    """Which of three channels is the brightest in this pixel? The border of each image doesn't count.

    Images are ``(batch, 3, 6, 10)``, labels ``(batch, 6, 10)``, outputs ``(batch, 3, 6, 10)``.
    """

    key = "brightest"
    default_model = "pixel-classifier"
    base = BASE
    ignore_index = IGNORED
    metrics = (Metric("miou", "%", True), *Made.metrics)
    facts = TaskFacts("pixels", outputs=CLASSES, channels=CLASSES, height=HEIGHT, width=WIDTH)

    def make(self, examples: int, generator: torch.Generator) -> Sequence[Any]:
        """Return images of noise with their labels."""
        images = torch.randn(examples, CLASSES, HEIGHT, WIDTH, generator=generator)
        labels = torch.full((examples, HEIGHT, WIDTH), IGNORED)
        labels[:, 1:-1, 1:-1] = images.argmax(1)[:, 1:-1, 1:-1]
        return list(zip(images, labels, strict=True))

    def batch(self, examples: Sequence[tuple[Tensor, Tensor]]) -> Batch:
        """Put some examples into two tensors."""
        images, labels = zip(*examples, strict=True)
        return Batch(torch.stack(images), torch.stack(labels))

    def example(self, batch_size: int = 2) -> Tensor:
        """Return noise with zero mean and unit variance."""
        return torch.randn(batch_size, CLASSES, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0))

    def meter(self) -> Joined:
        """Return the mean intersection over union in percent, and what all classifications have, of pixels."""
        from torchmetrics.classification import MulticlassJaccardIndex

        return Joined(
            Accumulated({"miou": (MulticlassJaccardIndex(CLASSES, ignore_index=IGNORED), 100)}), super().meter()
        )
