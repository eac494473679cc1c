"""The MONK's problems: three rules over six attributes of robots, to be learnt from a part of the 432 examples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from condensery import UsageError
from condensery.tasks import Answers, Batch, Metric, Split, TaskFacts
from condensery_plugins.tasks.tensors import Stored, TensorTask

VALUES = (3, 3, 2, 3, 4, 2)
"""How many values each attribute has: 432 combinations, 17 one-hot inputs."""
TRAIN = {1: 124, 2: 169, 3: 122}
NOISY = {1: 0, 2: 0, 3: 6}
"""Training labels that are wrong: 5 % of MONK-3's."""
RULES: dict[int, Callable[[Tensor], Tensor]] = {
    1: lambda a: (a[:, 0] == a[:, 1]) | (a[:, 4] == 1),
    2: lambda a: (a == 1).sum(1) == 2,
    3: lambda a: ((a[:, 4] == 3) & (a[:, 3] == 1)) | ((a[:, 4] != 4) & (a[:, 1] != 3)),
}
"""The class of each row of attributes, ``(examples, 6)``, whose values count from 1."""


class Monk(TensorTask):
    """One of the MONK's problems; inputs are 17 zeros and ones, the test split is all 432 examples without noise.

    Thrun et al.: "The MONK's Problems: A Performance Comparison of Different Learning Algorithms", CMU-CS-91-197, 1991.
    The data follow from the rules. The training examples are drawn here, as many as in the original and always the
    same ones; they stand in for the original's, which were drawn once by its authors. MONK-3 has 6 wrong labels.
    The loss is half the mean squared error of one output against 0 or 1, as in the nets of that report.

    :param problem: 1, 2 or 3.
    """

    key = "monk"
    metrics = (
        Metric("accuracy", "%", True),
        Metric("error", "%", False),
        Metric("errors", "count", False),
        Metric("loss", "half squared error", False),
    )
    default_model = "mlp"
    base = {
        "epochs": 200,
        "batch_size": 32,
        "optimizer": {"name": "adam", "lr": 0.2, "weight_decay": 2e-4},
        "schedule": {"name": "cosine"},
    }

    def __init__(self, problem: int = 1) -> None:
        super().__init__()
        if problem not in RULES:
            raise UsageError(f"task {self.key}: problem must be 1, 2 or 3, got {problem}")
        self.problem = problem
        self.sizes = {"train": TRAIN[problem], "test": prod(VALUES)}
        self.facts = TaskFacts("vector", outputs=1, size=sum(VALUES))

    def load(self, split: Split) -> Stored:
        """Work out the examples."""
        attributes = torch.cartesian_prod(*[torch.arange(1, n + 1) for n in VALUES])
        labels = RULES[self.problem](attributes).long()

        if split == "train":
            draw = torch.Generator().manual_seed(1991 + self.problem)
            chosen = torch.randperm(len(labels), generator=draw)[: TRAIN[self.problem]]
            labels = labels[chosen]
            labels[: NOISY[self.problem]] ^= 1
            attributes = attributes[chosen]
        return {"attributes": attributes}, labels

    def inputs(self, stored: Mapping[str, Tensor], index: Tensor, noise: Mapping[str, Tensor]) -> Tensor:
        """Return one-hot inputs ``(batch, 17)``."""
        return one_hot(stored["attributes"][index])

    def example(self, batch_size: int = 2) -> Tensor:
        """Return random examples."""
        generator = torch.Generator().manual_seed(0)
        return one_hot(torch.stack([torch.randint(1, n + 1, (batch_size,), generator=generator) for n in VALUES], 1))

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor | None:
        """Return half the mean squared error.

        :param outputs: ``(batch, 1)``.
        """
        return None if batch.labels is None else _half_squares(outputs, batch)

    def meter(self) -> Answers:
        """Return accuracy and error in percent, errors as a count, and the loss; an output above 0.5 says yes."""
        return Answers(lambda outputs, batch: (outputs[:, 0] > 0.5).long() == batch.labels, _half_squares)

    def describe(self) -> dict[str, Any]:
        """Return key and problem."""
        return {"key": self.key, "problem": self.problem}


def _half_squares(outputs: Tensor, batch: Batch) -> Tensor:
    return nn.functional.mse_loss(outputs[:, 0], batch.labels.to(outputs.dtype)) / 2


def one_hot(attributes: Tensor) -> Tensor:
    """Return one input for each value of each attribute.

    :param attributes: ``(batch, 6)``, values from 1.
    :returns: floats, ``(batch, 17)``.
    """
    parts = [nn.functional.one_hot(attributes[:, i] - 1, n) for i, n in enumerate(VALUES)]
    return torch.cat(parts, 1).float()
