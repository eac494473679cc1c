"""Tasks whose examples are made from a seed: they need no data, and what they ask for is known exactly."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import torch

from condensery import Batch, Task
from condensery.tasks import Split, Subset


class Made(Task):
    """A task whose examples are made when they are first asked for, and put together batch by batch."""

    holds_out = True
    sizes: ClassVar[dict[Split, int]] = {"train": 512, "test": 256}

    def __init__(self) -> None:
        self._made: dict[Split, Sequence[Any]] = {}

    @abstractmethod
    def make(self, examples: int, generator: torch.Generator) -> Sequence[Any]:
        """Return some examples, each of any kind."""

    @abstractmethod
    def batch(self, examples: Sequence[Any]) -> Batch:
        """Put some examples together, padded as far as this batch needs it."""

    def count(self, split: Split, subset: Subset | None = None) -> int:
        """Return the number of examples in a split."""
        return len(self._pick(split, subset))

    def _pick(self, split: Split, subset: Subset | None) -> list[int]:
        subset = subset or Subset()
        if split == "validation":
            return subset.aside(self.sizes["train"]).tolist()
        return subset.pick(torch.zeros(self.sizes[split], dtype=torch.long)).tolist()

    def batches(
        self,
        split: Split,
        *,
        batch_size: int,
        seed: int = 0,
        subset: Subset | None = None,
        device: torch.device | str = "cpu",
        train: bool = False,
    ) -> Iterator[Batch]:
        """Yield one epoch of batches; the last one may be smaller."""
        home: Split = "test" if split == "test" else "train"
        if home not in self._made:
            self._made[home] = self.make(self.sizes[home], torch.Generator().manual_seed(1 + (home == "test")))

        index = self._pick(split, subset)
        if train:
            order = torch.randperm(len(index), generator=torch.Generator().manual_seed(seed)).tolist()
            index = [index[i] for i in order]
        for start in range(0, len(index), batch_size):
            yield self.batch([self._made[home][i] for i in index[start : start + batch_size]]).to(device)
