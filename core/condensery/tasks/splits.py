"""The splits of a task's data, and fixed parts of them."""

from __future__ import annotations

import dataclasses
from typing import Literal

import torch
from torch import Tensor

from condensery.errors import UsageError

Split = Literal["train", "validation", "test"]
SEED, HELD_OUT_SEED = 20240119, 20240120
"""Of what subsets draw, and of what is held out: two draws, so that neither depends on the other."""


@dataclasses.dataclass(frozen=True)
class Subset:
    """A part of a split, always the same for the same numbers.

    :param size: this many examples, drawn without replacement.
    :param per_class: at most this many of each class.
    :param without: classes left out.
    :param held_out: share of the training examples that are set aside for validation; the others are what the
        numbers above pick from.
    """

    size: int | None = None
    per_class: int | None = None
    without: tuple[int, ...] = ()
    held_out: float = 0.0

    def pick(self, labels: Tensor) -> Tensor:
        """Return the indices of the subset, ascending.

        :param labels: int64 of shape ``(examples,)``.
        :raises UsageError: if there are fewer examples than asked for.
        """
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(SEED))
        keep = torch.ones(len(labels), dtype=torch.bool)
        keep[self.aside(len(labels))] = False
        for label in self.without:
            if not bool((labels == label).any()):
                raise UsageError(f"data.subset.without: no example has class {label}")
            keep &= labels != label
        order = order[keep[order]]
        if not len(order):
            raise UsageError("data.subset: it leaves no example")

        if self.per_class is not None:
            shuffled = labels[order]
            parts = [order[shuffled == label][: self.per_class] for label in torch.unique(shuffled)]
            order = torch.cat(parts)
        if self.size is not None:
            if self.size > len(order):
                raise UsageError(f"data.subset.size: {self.size} asked for, the split has {len(order)} examples")
            order = order[: self.size]
        return order.sort().values

    def aside(self, examples: int) -> Tensor:
        """Return the indices of the training examples that are held out, ascending.

        :param examples: of the whole training split.
        """
        order = torch.randperm(examples, generator=torch.Generator().manual_seed(HELD_OUT_SEED))
        return order[: round(self.held_out * examples)].sort().values
