"""Tasks whose splits are tensors in memory: order, subsets and batches, the same on every device."""

from __future__ import annotations

import copy
import itertools
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from condensery import Batch, Task, UsageError
from condensery.tasks import (
    Arrays,
    DataSet,
    Split,
    Subset,
    hash_tree,
    is_stored,
    stored_arrays,
)

Stored = tuple[Mapping[str, Tensor], Tensor]
"""Inputs by name, and labels; the examples in dimension 0."""


def local_or_hub(
    name: str,
    keys: Sequence[str],
    data: DataSet,
    read: Callable[[Path], Arrays],
    fetch: Callable[[], Arrays],
) -> Arrays:
    """Return arrays from local files, the cache or the hub; what is made once is kept in the cache.

    :param name: in the cache; what comes from the hub is kept under another one, with the revision.
    :param keys: of the arrays.
    :param read: returns the arrays of a local folder.
    :param fetch: returns those of the hub.
    """
    folder = data.find()
    if folder is None and not is_stored(name, keys):
        revision = data.hub.revision[:12] if data.hub else ""
        return stored_arrays(f"{name}-{revision}", keys, fetch)

    def build() -> Arrays:
        assert folder is not None  # else the arrays are stored already
        return read(folder)

    return stored_arrays(name, keys, build)


class TensorTask(Task):
    """A task that holds each split as tensors and cuts batches out of them on the device; by default it classifies.

    A split is read when it is first used and copied to a device once. Order and augmentation are drawn on the CPU, for
    a whole epoch at a time: a seed means the same examples and crops on every device, and no step waits for a number.
    A single example that is left over joins the last training batch: batch normalization can't do with one.
    """

    holds_out: ClassVar[bool] = True
    sizes: Mapping[Split, int] = {}
    """Examples of each split, where these are known before they are read."""

    def __init__(self) -> None:
        self._augments = True
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

    def as_stored(self) -> Self:
        """Return this task without its noise; both share the splits that were read."""
        plain = copy.copy(self)
        plain._augments = False
        return plain

    def split(self, name: Split, device: torch.device | str = "cpu") -> Stored:
        """Return one split on a device, reading it the first time."""
        key = (name, str(device))
        if key not in self._splits:
            inputs, labels = self.load(name) if str(device) == "cpu" else self.split(name)
            self._splits[key] = {k: v.to(device) for k, v in inputs.items()}, labels.to(device)
        return self._splits[key]

    def home(self, split: Split) -> Split:
        """Return the split that holds the examples of a split: what is held out for validation is in ``train``."""
        return split if split in self.splits else "train"

    def pick(self, split: Split, subset: Subset | None) -> Tensor:
        """Return the numbers of the examples that a subset keeps, ascending, ``(examples,)``.

        :raises UsageError: if the subset asks for classes of a regression, or for more than there is.
        """
        if split == "validation" and split not in self.splits:
            if subset is None or not subset.held_out:
                raise UsageError(f"task {self.key!r} has no validation split; hold out a share of its training data")
            return subset.aside(self.count("train"))
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
        return self.sizes[split] if subset is None and split in self.sizes else len(self.pick(split, subset))

    def steps(self, split: Split, *, batch_size: int, subset: Subset | None = None) -> int:
        """Return how many batches a training epoch has."""
        return len(_starts(self.count(split, subset), batch_size, train=True))

    def fingerprint(self, split: Split) -> str:
        """Return a hash of the tensors of a split; what is held out for validation is in ``train``."""
        return hash_tree(self.split(self.home(split)))

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
        stored, labels = self.split(self.home(split), device)

        noise: dict[str, Tensor] = {}
        if train:
            generator = torch.Generator().manual_seed(seed)
            index = index[torch.randperm(len(index), generator=generator)]
            if self._augments:
                noise = {k: v.to(device) for k, v in self.noise(len(index), generator).items()}

        index = index.to(device)
        starts = _starts(len(index), batch_size, train=train)
        for start, stop in itertools.pairwise([*starts, len(index)]):
            part = slice(start, stop)
            inputs = self.inputs(stored, index[part], {k: v[part] for k, v in noise.items()})
            yield Batch(inputs, labels[index[part]])


def _starts(examples: int, batch_size: int, *, train: bool) -> list[int]:
    """Return the numbers of the examples with which the batches start."""
    starts = list(range(0, examples, batch_size))
    if train and batch_size > 1 and len(starts) > 1 and starts[-1] == examples - 1:
        del starts[-1]  # the example that is left over goes with the ones before
    return starts
