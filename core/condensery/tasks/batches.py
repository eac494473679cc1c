"""One batch of examples: inputs and labels, each a tree."""

from __future__ import annotations

import dataclasses
from typing import Any, Self

import torch

from condensery.errors import UsageError
from condensery.tasks.trees import examples_in, map_tensors, map_tree, take_examples, tensors_in


@dataclasses.dataclass
class Batch:
    """One batch on the device.

    Inputs and labels are trees, see :mod:`condensery.tasks.trees`: the tensors of a tuple or a dict hold the whole
    batch in dimension 0, a list has one entry for each example. Extend it where that isn't so, as for graphs.

    :param labels: ``None`` where there are none, or where a method makes its own data.
    :param counts: of hidden labels, which ones the task doesn't ignore: of their form, with bool in place of numbers;
        ``None`` where all count, or where the labels tell themselves.
    """

    inputs: Any
    labels: Any = None
    counts: Any = dataclasses.field(default=None, kw_only=True)

    @property
    def size(self) -> int:
        """Number of examples.

        :raises UsageError: if nothing in the inputs or the labels tells.
        """
        size = examples_in((self.inputs, self.labels))
        if size is None:
            raise UsageError(f"a batch of {type(self.inputs).__name__} has neither a tensor nor a list to count")
        return size

    @property
    def device(self) -> torch.device:
        """Where its tensors are."""
        return next((tensor.device for tensor in tensors_in((self.inputs, self.labels))), torch.device("cpu"))

    def part(self, start: int, stop: int) -> Self:
        """Return the examples ``start`` to ``stop``."""
        inputs, labels, counts = take_examples((self.inputs, self.labels, self.counts), start, stop)
        return dataclasses.replace(self, inputs=inputs, labels=labels, counts=counts)

    def to(self, device: torch.device | str) -> Self:
        """Return the batch on another device; what has no ``to`` stays as it is."""

        def moved(leaf: Any) -> Any:
            return leaf.to(device) if hasattr(leaf, "to") else leaf

        inputs, labels, counts = map_tree(moved, (self.inputs, self.labels, self.counts))
        return dataclasses.replace(self, inputs=inputs, labels=labels, counts=counts)

    def without_labels(self, ignored: int | None = None) -> Self:
        """Return the batch with its labels hidden; which of them count can still be told.

        :param ignored: the label of what doesn't count, such as padding; ``None``: all count.
        """
        if ignored is None or self.labels is None:
            return dataclasses.replace(self, labels=None)
        return dataclasses.replace(self, labels=None, counts=map_tensors(lambda labels: labels != ignored, self.labels))

    def content(self) -> dict[str, Any]:
        """Return what tells the batch from others: its fields, but for which labels count, as examples don't differ."""
        return {name: value for name, value in vars(self).items() if name != "counts"}
