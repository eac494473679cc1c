"""The splits of a task's data, and fixed parts of them."""

from __future__ import annotations

import dataclasses
from typing import Literal

import torch
from torch import Tensor

from condensery.errors import UsageError

Split = Literal["train", "test"]


@dataclasses.dataclass(frozen=True)
class Subset:
    """A part of a training split, always the same for the same numbers.

    :param size: this many examples, drawn without replacement.
    :param per_class: at most this many of each class.
    :param without: classes left out.
    """

    size: int | None = None
    per_class: int | None = None
    without: tuple[int, ...] = ()

    def pick(self, labels: Tensor) -> Tensor:
        """Return the indices of the subset, ascending.

        :param labels: int64 of shape ``(examples,)``.
        :raises UsageError: if there are fewer examples than asked for.
        """
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(20240119))
        keep = torch.ones(len(labels), dtype=torch.bool)
        for label in self.without:
            if not bool((labels == label).any()):
                raise UsageError(f"data.subset.without: no example has class {label}")
            keep &= labels != label
        order = order[keep[order]]

        if self.per_class is not None:
            shuffled = labels[order]
            parts = [order[shuffled == label][: self.per_class] for label in torch.unique(shuffled)]
            order = torch.cat(parts)

        if not len(order):
            raise UsageError("data.subset: it leaves no example")
        if self.size is not None:
            if self.size > len(order):
                raise UsageError(f"data.subset.size: {self.size} asked for, the split has {len(order)} examples")
            order = order[: self.size]
        return order.sort().values
