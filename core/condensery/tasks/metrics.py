"""Figures of quality that are added up batch by batch, so that no more than one batch of outputs is held at a time."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from torch import Tensor, nn

from condensery.errors import called
from condensery.tasks.batches import Batch


@dataclasses.dataclass(frozen=True)
class Metric:
    """One figure of quality.

    :param unit: ``"%"``, ``"count"``, ``"correlation"``...
    """

    name: str
    unit: str
    higher_is_better: bool


class Meter(Protocol):
    """Adds up figures over the batches of a split; a new one is made for each evaluation."""

    def update(self, outputs: Any, batch: Batch) -> None:
        """Take one batch.

        :param outputs: what ``Task.outputs`` made of it.
        """

    def compute(self) -> Mapping[str, float]:
        """Return the figures of all batches so far, by name."""


class Accumulated:
    """A meter made of torchmetrics.

    :param metrics: by name, each with ``update(answers, truths)`` and ``compute()``, and what its figure is multiplied
        by. Where a figure isn't defined, as a correlation with constant answers, it is 0, as scikit-learn has it.
    :param answers: returns from the outputs what the metrics compare with the batch's labels; by default the outputs.
    """

    def __init__(self, metrics: Mapping[str, tuple[Any, float]], answers: Callable[[Any], Any] | None = None) -> None:
        self.metrics, self.answers = metrics, answers

    def update(self, outputs: Any, batch: Batch) -> None:
        """Hand answers and labels to each metric."""
        found = outputs if self.answers is None else self.answers(outputs)
        for name, (metric, _) in self.metrics.items():
            called(f"metrics: {name!r}", metric.to(batch.device).update, found, batch.labels)

    def compute(self) -> dict[str, float]:
        """Return the figures by name."""
        figures = {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # torchmetrics warns where the variance is close to zero
            for name, (metric, factor) in self.metrics.items():
                value = factor * float(metric.compute())
                figures[name] = 0.0 if math.isnan(value) else value
        return figures


class Joined:
    """Several meters as one, their figures side by side."""

    def __init__(self, *meters: Meter) -> None:
        self.meters = meters

    def update(self, outputs: Any, batch: Batch) -> None:
        """Let each meter take the batch."""
        for meter in self.meters:
            meter.update(outputs, batch)

    def compute(self) -> dict[str, float]:
        """Return the figures of all."""
        return {name: value for meter in self.meters for name, value in meter.compute().items()}


class Answers:
    """Accuracy and error in percent, wrong answers as a count, and the mean loss of one example.

    :param right: tells which answers are right, bool of shape ``(examples,)``.
    :param loss: returns the mean loss of a batch.
    """

    def __init__(self, right: Callable[[Any, Batch], Tensor], loss: Callable[[Any, Batch], Tensor]) -> None:
        self.right, self.loss = right, loss
        self.examples, self.wrong, self.total = 0, 0, 0.0

    def update(self, outputs: Any, batch: Batch) -> None:
        """Count one batch."""
        right = self.right(outputs, batch)
        if not len(right):
            return  # every position is ignored, and the mean loss of none is no number

        self.examples += len(right)
        self.wrong += int((~right).sum())
        self.total += len(right) * float(self.loss(outputs, batch))

    def compute(self) -> dict[str, float]:
        """Return ``accuracy``, ``error``, ``errors`` and ``loss``."""
        examples = max(1, self.examples)
        share = 100.0 * self.wrong / examples
        return {
            "accuracy": 100.0 - share,
            "error": share,
            "errors": float(self.wrong),
            "loss": self.total / examples,
        }


def answers_of_classes(rows: Callable[[Any, Batch], Tensor], truths: Callable[[Batch], Tensor]) -> Answers:
    """Return the meter of a classification, with cross entropy in nats.

    :param rows: returns the class scores of each decision, ``(decisions, classes)``.
    :param truths: returns the right class of each decision, ``(decisions,)``.
    """

    def right(outputs: Any, batch: Batch) -> Tensor:
        return rows(outputs, batch).argmax(1) == truths(batch)

    def loss(outputs: Any, batch: Batch) -> Tensor:
        return nn.functional.cross_entropy(rows(outputs, batch).float(), truths(batch))

    return Answers(right, loss)


ACCURACY = (
    Metric("accuracy", "%", True),
    Metric("error", "%", False),
    Metric("errors", "count", False),
    Metric("loss", "nats", False),
)
