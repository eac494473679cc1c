"""A small detection: boxes of different numbers as labels, two outputs, average precision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from condensery import Batch
from condensery.tasks import Metric, TaskFacts
from condensery_plugins.tasks.made import Made

BASE = {
    "epochs": 12,
    "batch_size": 32,
    "optimizer": {"name": "adamw", "lr": 1e-2, "weight_decay": 0.01},
    "schedule": {"name": "cosine"},
}
SIDE, CELL, CLASSES = 12, 4, 2
ANCHORS, BACKGROUND = (SIDE // CELL) ** 2, CLASSES
"""One anchor a cell; what is in it, or nothing."""


class Squares(Made):
    """Where are the bright and the dark squares? One or two an image, each in a cell of its own.

    Labels are a list with a dict for each image: ``boxes``, ``(squares, 4)``, left, top, right, bottom in pixels, and
    ``labels``, ``(squares,)``. Outputs are a dict too: ``logits``, ``(batch, anchors, 3)``, for a dark square, a bright
    one or none in each cell, and ``boxes``, ``(batch, anchors, 4)``.
    """

    key = "squares"
    default_model = "cell-detector"
    base = BASE
    metrics = (Metric("ap50", "%", True),)
    facts = TaskFacts("cells", outputs=CLASSES + 1, channels=1, height=SIDE, width=SIDE)

    def make(self, examples: int, generator: torch.Generator) -> Sequence[Any]:
        """Return images, ``(1, 12, 12)``, each with its boxes and labels."""

        def scene() -> tuple[Tensor, dict[str, Tensor]]:
            image, boxes, labels = torch.zeros(1, SIDE, SIDE), [], []
            for cell in torch.randperm(ANCHORS, generator=generator)[: 1 + len(made) % 2].tolist():
                row, column = (CELL * (cell // 3) + 1, CELL * (cell % 3) + 1)
                labels.append(int(torch.randint(CLASSES, (), generator=generator)))
                image[0, row : row + 2, column : column + 2] = 1.0 if labels[-1] else -1.0
                boxes.append([column, row, column + 2, row + 2])
            return image, {"boxes": torch.tensor(boxes).float(), "labels": torch.tensor(labels)}

        made: list[Any] = []
        for _ in range(examples):
            made.append(scene())
        return made

    def batch(self, examples: Sequence[tuple[Tensor, dict[str, Tensor]]]) -> Batch:
        """Put images into one tensor, ``(batch, 1, 12, 12)``, and their labels into a list."""
        images, labels = zip(*examples, strict=True)
        return Batch(torch.stack(images), list(labels))

    def example(self, batch_size: int = 2) -> Tensor:
        """Return noise with zero mean and unit variance, ``(batch, 1, 12, 12)``."""
        return torch.randn(batch_size, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))

    def loss(self, outputs: dict[str, Tensor], batch: Batch) -> Tensor | None:
        """Return the mean cross entropy over the anchors and the mean distance of the boxes' sides."""
        if batch.labels is None:
            return None
        truths = torch.full(outputs["logits"].shape[:2], BACKGROUND)
        found, wanted = [], []
        for number, label in enumerate(batch.labels):
            cells = cells_of(label["boxes"])
            truths[number, cells] = label["labels"]
            found.append(outputs["boxes"][number, cells])
            wanted.append(label["boxes"])
        classes = nn.functional.cross_entropy(outputs["logits"].flatten(0, 1), truths.flatten())
        return classes + nn.functional.l1_loss(torch.cat(found), torch.cat(wanted)) / CELL

    def rows(self, outputs: dict[str, Tensor], batch: Batch) -> Tensor:
        """Return one row for each anchor, ``(batch * anchors, classes + 1)``."""
        return outputs["logits"].flatten(0, 1)

    def weight(self, batch: Batch) -> float:
        """Count examples: all have as many anchors."""
        return batch.size

    def meter(self) -> AveragePrecision:
        """Return what adds up the average precision."""
        return AveragePrecision()


def cells_of(boxes: Tensor) -> Tensor:
    """Return the number of the cell that holds the middle of each box ``(boxes, 4)``."""
    columns, rows = ((boxes[:, :2] + boxes[:, 2:]) / 2 // CELL).long().unbind(1)
    return rows * (SIDE // CELL) + columns


class AveragePrecision:
    """The area under precision over recall at an overlap of one half, mean over classes, in percent."""

    def __init__(self) -> None:
        self.hits: list[list[tuple[float, bool]]] = [[] for _ in range(CLASSES)]
        self.boxes = [0] * CLASSES

    def update(self, outputs: dict[str, Tensor], batch: Batch) -> None:
        """Count the boxes of a batch, and which predictions fit one, best score first."""
        for boxes, scores, truth in zip(outputs["boxes"], outputs["logits"].softmax(2), batch.labels, strict=True):
            for kind in range(CLASSES):
                wanted = truth["boxes"][truth["labels"] == kind]
                self.boxes[kind] += len(wanted)
                taken: set[int] = set()
                for anchor in scores[:, kind].argsort(descending=True).tolist():
                    fits = [i for i, box in enumerate(wanted) if i not in taken and overlap(boxes[anchor], box) >= 0.5]
                    taken.update(fits[:1])
                    self.hits[kind].append((float(scores[anchor, kind]), bool(fits)))

    def compute(self) -> dict[str, float]:
        """Return the areas' mean."""
        areas = []
        for hits, boxes in zip(self.hits, self.boxes, strict=True):
            right = torch.tensor([hit for _, hit in sorted(hits, reverse=True)]).cumsum(0)
            precision = right / torch.arange(1, len(right) + 1)
            best = precision.flip(0).cummax(0).values.flip(0)  # precision never falls as recall grows
            areas.append(float((best * torch.diff(right, prepend=torch.zeros(1))).sum() / max(1, boxes)))
        return {"ap50": 100 * sum(areas) / CLASSES}


def overlap(one: Tensor, other: Tensor) -> float:
    """Return the intersection over the union of two boxes ``(4,)``: left, top, right, bottom."""
    inner = (torch.minimum(one[2:], other[2:]) - torch.maximum(one[:2], other[:2])).clamp_min(0).prod()
    both = (one[2:] - one[:2]).clamp_min(0).prod() + (other[2:] - other[:2]).prod() - inner
    return float(inner / both)
