"""Exclusive or: the four examples on which Optimal Brain Surgeon was first shown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from condensery.tasks import Split, TaskFacts
from condensery_plugins.tasks.monk import Monk
from condensery_plugins.tasks.tensors import Stored, TensorTask


class Xor(Monk):
    """Two inputs of 0 or 1, which differ or don't; every split is all four examples. Loss and metrics are MONK's."""

    key = "xor"
    base = {**Monk.base, "epochs": 400, "batch_size": 4}

    def __init__(self) -> None:
        TensorTask.__init__(self)
        self.sizes = {"train": 4, "test": 4}
        self.facts = TaskFacts("vector", outputs=1, size=2)

    def load(self, split: Split) -> Stored:
        """Return the four examples."""
        inputs = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]])
        return {"inputs": inputs}, inputs[:, 0] ^ inputs[:, 1]

    def inputs(self, stored: Mapping[str, Tensor], index: Tensor, noise: Mapping[str, Tensor]) -> Tensor:
        """Return inputs ``(batch, 2)``."""
        return stored["inputs"][index].float()

    def example(self, batch_size: int = 2) -> Tensor:
        """Return random examples."""
        return torch.randint(0, 2, (batch_size, 2), generator=torch.Generator().manual_seed(0)).float()

    def describe(self) -> dict[str, Any]:
        """Return the key."""
        return {"key": self.key}
