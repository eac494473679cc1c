"""Figures of quality, and those that every classifier has."""

from __future__ import annotations

import dataclasses

from torch import Tensor, nn


@dataclasses.dataclass(frozen=True)
class Metric:
    """One figure of quality.

    :param unit: ``"%"``, ``"count"``, ``"correlation"``...
    """

    name: str
    unit: str
    higher_is_better: bool


def accuracy_metrics(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Return accuracy and error in percent, wrong answers as a count, and the mean cross entropy in nats."""
    wrong = int((logits.argmax(1) != labels).sum())
    share = 100.0 * wrong / len(labels)
    loss = float(nn.functional.cross_entropy(logits.float(), labels))
    return {"accuracy": 100.0 - share, "error": share, "errors": float(wrong), "loss": loss}


ACCURACY = (
    Metric("accuracy", "%", True),
    Metric("error", "%", False),
    Metric("errors", "count", False),
    Metric("loss", "nats", False),
)
