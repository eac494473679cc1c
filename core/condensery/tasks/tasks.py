"""Tasks: data, loss and metrics of one problem, and what a model must look like to fit it.

A task owns its data as tensors in memory (images as ``uint8``) and makes batches on the device, augmentation included.
"""

from __future__ import annotations

import dataclasses
import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from condensery.contract import Registry
from condensery.errors import UnknownKey, UsageError
from condensery.recipe import TaskSpec
from condensery.tasks.metrics import Metric
from condensery.tasks.splits import Split, Subset


@dataclasses.dataclass(frozen=True)
class TaskFacts:
    """What a model builder must know to fit a task.

    :param kind: ``"image"``: inputs are ``(batch, channels, size, size)`` floats; ``"text"``: a mapping with
        ``input_ids`` and ``attention_mask``, each ``(batch, length)`` of int64; ``"vector"``: ``(batch, size)`` floats;
        ``"sequence"``: ``(batch, length, size)`` floats.
    :param outputs: width of the logits; 1 for regression.
    """

    kind: Literal["image", "sequence", "text", "vector"]
    outputs: int
    channels: int = 0
    size: int = 0
    vocabulary: int = 0
    length: int = 0


@dataclasses.dataclass
class Batch:
    """One batch on the device.

    :param inputs: a tensor, or a mapping of tensors, the batch in dimension 0.
    :param labels: ``(batch,)``, or ``None`` where a method makes its own data.
    """

    inputs: Any
    labels: Tensor | None = None

    @property
    def size(self) -> int:
        """Number of examples."""
        first = next(iter(self.inputs.values())) if isinstance(self.inputs, Mapping) else self.inputs
        return int(first.shape[0])

    def part(self, start: int, stop: int) -> Batch:
        """Return the examples ``start`` to ``stop``."""
        cut: Any
        if isinstance(self.inputs, Mapping):
            cut = {k: v[start:stop] for k, v in self.inputs.items()}
        else:
            cut = self.inputs[start:stop]
        return Batch(cut, None if self.labels is None else self.labels[start:stop])

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch on another device."""
        moved: Any
        if isinstance(self.inputs, Mapping):
            moved = {k: v.to(device) for k, v in self.inputs.items()}
        else:
            moved = self.inputs.to(device)
        return Batch(moved, None if self.labels is None else self.labels.to(device))


class Task(ABC):
    """A problem with its data.

    Subclasses keep what is costly lazy: building a task must not read data. ``base`` is the plain training that makes
    ``original`` where no trained weights exist: a mapping with the fields of :class:`condensery.recipe.TrainSpec`.
    """

    key: ClassVar[str] = ""
    metrics: ClassVar[tuple[Metric, ...]] = ()
    """The first one is the task's main figure."""
    default_model: ClassVar[str] = ""
    base: ClassVar[Mapping[str, Any]] = {}
    facts: TaskFacts

    @abstractmethod
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
        """Yield one epoch of batches.

        :param seed: of the order and the augmentation; the same seed gives the same batches bit for bit.
        :param train: shuffle and augment; otherwise stored order, as is.
        """

    @abstractmethod
    def count(self, split: Split, subset: Subset | None = None) -> int:
        """Return the number of examples in a split."""

    @abstractmethod
    def example_input(self, batch_size: int = 2) -> Any:
        """Return inputs of the right shape and type, without reading data."""

    @abstractmethod
    def score(self, logits: Tensor, labels: Tensor) -> dict[str, float]:
        """Return the metrics over a whole split.

        :param logits: ``(examples, outputs)``; ``labels``: ``(examples,)``.
        """

    def logits(self, model: nn.Module, inputs: Any) -> Tensor:
        """Call the model and return its logits, ``(batch, outputs)``."""
        out = model(**inputs) if isinstance(inputs, Mapping) else model(inputs)
        return out if isinstance(out, Tensor) else out.logits

    def loss(self, logits: Tensor, labels: Tensor | None) -> Tensor | None:
        """Return the mean loss over the batch, or ``None`` without labels."""
        if labels is None:
            return None
        return nn.functional.cross_entropy(logits, labels)

    def describe(self) -> dict[str, Any]:
        """Return what identifies this task in a cache key: its key and configuration."""
        return {"key": self.key}


def build_task(spec: TaskSpec, registry: Registry) -> Task:
    """Build a task; its data are not read yet.

    :raises UnknownKey: for an unknown task, or a setting that it doesn't have.
    :raises UsageError: for a setting with a value of the wrong type.
    """
    cls = registry.load("tasks", spec.key)
    settings = inspect.signature(cls).parameters
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in settings.values())
    for name in spec.config:
        if name not in settings and not takes_any:
            raise UnknownKey("setting", name, settings, where=f"task {spec.key!r}")

    try:
        task = cls(**spec.config)
    except TypeError as error:
        raise UsageError(f"task {spec.key!r}: {error}") from None
    assert isinstance(task, Task)
    return task
