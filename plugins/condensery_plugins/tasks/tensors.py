"""Tasks whose splits are tensors in memory: order, subsets and batches, the same on every device."""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from condensery.errors import UsageError
from condensery.tasks import Batch, Split, Subset, Task

Stored = tuple[Mapping[str, Tensor], Tensor]
"""Inputs by name, and labels; the examples in dimension 0."""


class TensorTask(Task):
    """A task that holds each split as tensors and cuts batches out of them on the device.

    A split is read when it is first used and copied to a device once. Order and augmentation are drawn on the CPU, for
    a whole epoch at a time: a seed means the same examples and crops on every device, and no step waits for a number.
    A single example that is left over joins the last training batch: batch normalization can't do with one.
    """

    def __init__(self) -> None:
        self._splits: dict[tuple[Split, str], Stored] = {}
        self._picks: dict[tuple[Split, Subset], Tensor] = {}

    @abstractmethod
    def load(self, split: Split) -> Stored:
        """Read one split.

        :raises UsageError: if the data can't be found, or are damaged.
        """

    @abstractmethod
    def inputs(self, stored: Mapping[str, Tensor], index: Tensor, noise: Mapping[str, Tensor]) -> Any:
        """Return the inputs of some examples, as the model takes them.

        :param index: numbers of the examples, ``(batch,)``.
        :param noise: the random numbers of these examples; empty outside of training.
        """

    def noise(self, examples: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw what augments one epoch: tensors with the examples in dimension 0."""
        return {}

    def split(self, name: Split, device: torch.device | str = "cpu") -> Stored:
        """Return one split on a device, reading it the first time."""
        key = (name, str(device))
        if key not in self._splits:
            if str(device) == "cpu":
                self._splits[key] = self.load(name)
            else:
                inputs, labels = self.split(name)
                self._splits[key] = {k: v.to(device) for k, v in inputs.items()}, labels.to(device)
        return self._splits[key]

    def pick(self, split: Split, subset: Subset | None) -> Tensor:
        """Return the numbers of the examples that a subset keeps, ascending.

        :raises UsageError: if the subset asks for classes of a regression, or for more than there is.
        """
        labels = self.split(split)[1]
        if subset is None:
            return torch.arange(len(labels))
        if labels.is_floating_point() and (subset.per_class is not None or subset.without):
            raise UsageError(f"data.subset: {self.key} is a regression and has no classes; use size")
        if (split, subset) not in self._picks:
            self._picks[split, subset] = subset.pick(labels)
        return self._picks[split, subset]

    def count(self, split: Split, subset: Subset | None = None) -> int:
        """Return the number of examples in a split."""
        return len(self.pick(split, subset))

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
        """Yield one epoch of batches; the last one may be smaller, or larger by one."""
        index = self.pick(split, subset)
        stored, labels = self.split(split, device)
        noise: dict[str, Tensor] = {}
        if train:
            generator = torch.Generator().manual_seed(seed)
            index = index[torch.randperm(len(index), generator=generator)]
            noise = {k: v.to(device) for k, v in self.noise(len(index), generator).items()}
        index = index.to(device)
        starts = list(range(0, len(index), batch_size))
        if train and batch_size > 1 and len(starts) > 1 and starts[-1] == len(index) - 1:
            del starts[-1]
        for start, stop in itertools.pairwise([*starts, len(index)]):
            part = slice(start, stop)
            inputs = self.inputs(stored, index[part], {k: v[part] for k, v in noise.items()})
            yield Batch(inputs, labels[index[part]])
