"""Tasks: data, loss and metrics of one problem, and what a model must look like to fit it.

A task owns its data, and makes batches on the device, augmentation included.
"""

from __future__ import annotations

import dataclasses
import inspect
import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from condensery.contract import Registry
from condensery.errors import UnknownKey, UsageError
from condensery.recipe import TaskSpec
from condensery.tasks.batches import Batch
from condensery.tasks.data import DataSet
from condensery.tasks.metrics import ACCURACY, Meter, Metric, answers_of_classes
from condensery.tasks.splits import Split, Subset
from condensery.tasks.trees import full_precision, hash_tree, head, tensors_in

NO_LABEL = -100
"""What torch ignores unless it is told otherwise: the label of what doesn't count in a user's own data."""
NEVER = torch.iinfo(torch.int64).min
"""A label that nothing has."""


@dataclasses.dataclass(frozen=True)
class TaskFacts:
    """What a model builder must know to fit a task.

    :param kind: what the inputs are, in one word. The built-in models know ``image``: ``(batch, channels, height,
        width)`` floats; ``text``: a mapping with ``input_ids`` and ``attention_mask``, each ``(batch, length)`` of
        int64; ``vector``: ``(batch, size)`` floats; ``sequence``: ``(batch, length, size)`` floats. Any other word will
        do for tasks and models of one's own.
    :param outputs: width of the outputs, such as the number of classes; 1 for regression.
    :param size: of a vector or a frame; of a square image, in place of height and width.
    """

    kind: str
    outputs: int
    channels: int = 0
    size: int = 0
    vocabulary: int = 0
    length: int = 0
    height: int = 0
    width: int = 0

    def __post_init__(self) -> None:
        """Give a square image its height and width."""
        if self.kind == "image" and self.size and not (self.height or self.width):
            object.__setattr__(self, "height", self.size)
            object.__setattr__(self, "width", self.size)


class Task(ABC):
    """A problem with its data.

    Subclasses keep what is costly lazy: building a task must not read data. ``base`` is the plain training that makes
    ``original`` where no trained weights exist: a mapping with the fields of :class:`condensery.recipe.TrainSpec`.

    Inputs, labels and outputs are trees, see :mod:`condensery.tasks.trees`. As it stands a task classifies: labels are
    numbers of classes, of any shape, and the outputs' head has the classes in dimension 1, as in torch's cross entropy.
    A task with another loss overrides :meth:`loss`, and :meth:`rows` where its outputs are class scores all the same.
    """

    key: ClassVar[str] = ""
    data_set: ClassVar[DataSet | None] = None
    """Where the examples come from; ``None``: nothing is needed beside the package."""
    metrics: ClassVar[tuple[Metric, ...]] = ACCURACY
    """The first one is the task's main figure."""
    splits: ClassVar[tuple[Split, ...]] = ("train", "test")
    """Those that its data come in; a task without ``validation`` may hold out a part of ``train``."""
    holds_out: ClassVar[bool] = False
    """Whether :meth:`batches` and :meth:`count` know a ``Subset`` with ``held_out``."""
    caches: ClassVar[bool] = True
    """Whether what was measured on it is kept for later runs: not where a file doesn't tell what it measures."""
    ignore_index: int | None = None
    """Label of positions that don't count, such as padding; ``None``: all count, and -100 is an error as any other."""
    squared_hinge: bool = False
    """Whether each class is told from the others by a margin, one against all, in place of the cross entropy."""
    class_weights: Tensor | None = None
    """How much an example of each class counts, ``(classes,)``; ``None``: all alike."""
    default_model: ClassVar[str] = ""
    base: ClassVar[Mapping[str, Any]] = {}
    facts: TaskFacts

    # ---------------------------------------------------------------- data

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
        """Yield one epoch of batches; each may be padded to a length of its own.

        :param seed: of the order and the augmentation; the same seed gives the same batches bit for bit.
        :param train: shuffle and augment; otherwise stored order, as is.
        """

    def as_stored(self) -> Task:
        """Return this task with none of its training examples augmented, whatever its settings say.

        :raises UsageError: if the task can't do without, or can't tell.
        """
        raise UsageError(f"data.augment: task {self.key!r} can't show its training examples as they are stored")

    @abstractmethod
    def count(self, split: Split, subset: Subset | None = None) -> int:
        """Return the number of examples in a split."""

    def steps(self, split: Split, *, batch_size: int, subset: Subset | None = None) -> int:
        """Return how many batches one training epoch of :meth:`batches` has; the learning rate's schedule counts them.

        Override it where the last examples are dropped or joined, or batches are not all of one size.
        """
        return -(-self.count(split, subset) // batch_size)

    @abstractmethod
    def example(self, batch_size: int = 2) -> Any:
        """Return inputs of the right shape and type, without reading data."""

    # ---------------------------------------------------------------- a net's answer and its loss

    def outputs(self, model: nn.Module, batch: Batch) -> Any:
        """Call the model and return its outputs, a tree.

        A dict of inputs is given by name, a tuple as several arguments, anything else as one argument. Of an object
        with ``logits``, as transformers has them, these are the outputs.
        """
        inputs = batch.inputs
        if isinstance(inputs, Mapping):
            out = model(**inputs)
        else:
            out = model(*inputs) if type(inputs) is tuple else model(inputs)
        return getattr(out, "logits", out)

    def answers(self, model: nn.Module, inputs: Any) -> list[Tensor]:
        """Return all that a model answers to some inputs: each float among its outputs, by which two nets compare."""
        return [tensor for tensor in tensors_in(self.outputs(model, Batch(inputs))) if tensor.is_floating_point()]

    def loss(self, outputs: Any, batch: Batch) -> Tensor | None:
        """Return the mean loss over the batch, or ``None`` without labels."""
        if batch.labels is None:
            return None
        scores, labels = head(outputs), head(batch.labels)
        ignored = NEVER if self.ignore_index is None else self.ignore_index
        weights = None if self.class_weights is None else self.class_weights.to(scores)
        if self.squared_hinge:
            return squared_hinge(scores, labels, weights, ignored)
        return nn.functional.cross_entropy(scores, labels, weight=weights, ignore_index=ignored)

    def rows(self, outputs: Any, batch: Batch) -> Tensor | None:
        """Return the class scores that can be softened, ``(rows, classes)``, or ``None`` where there are none.

        One row for each decision: an example, a pixel, a token, an anchor. Padding and ignored positions are dropped;
        who softens takes the mean over the rows. A task with a loss of its own has rows only if it says which.
        """
        scores = head(outputs)
        if type(self).loss is not Task.loss or scores.dim() < 2 or scores.shape[1] < 2:
            return None
        rows = scores if scores.dim() == 2 else scores.movedim(1, -1).flatten(0, -2)
        counts = self._counts(batch)
        return rows if counts is None else rows[counts]

    def row_weights(self, batch: Batch) -> Tensor | None:
        """Return how much each of :meth:`rows` counts, ``(rows,)``, or ``None`` where all count alike."""
        if self.class_weights is None or batch.labels is None:
            return None
        labels, counts = head(batch.labels).flatten(), self._counts(batch)
        return self.class_weights.to(labels.device)[labels if counts is None else labels[counts]]

    def weight(self, batch: Batch) -> float:
        """Return how much a batch counts beside others: what its mean loss was divided by.

        Parts of one batch that are played one after the other (``accumulate``) are weighted by it. By default the
        number of labels that count, as many times as their classes do; of examples, where labels are no one tensor.
        """
        counts, weights = self._counts(batch), self.row_weights(batch)
        if weights is not None:
            return float(weights.sum())
        if counts is not None:
            return float(counts.sum())
        return head(batch.labels).numel() if isinstance(batch.labels, Tensor | PackedSequence) else batch.size

    def is_empty(self, batch: Batch) -> bool:
        """Tell whether nothing in a batch counts, as where each label is ignored: it has no mean loss.

        Only a task that ignores or weighs labels is asked for the batch's :meth:`weight`.
        """
        all_alike = self.ignore_index is None and self.class_weights is None and type(self).weight is Task.weight
        known = batch.labels is not None or batch.counts is not None
        return not all_alike and known and self.weight(batch) == 0

    def _counts(self, batch: Batch) -> Tensor | None:
        """Tell which labels count, flat, ``None`` where all do; of hidden ones too, as padding is no secret."""
        if self.ignore_index is None:
            return None
        if batch.labels is None:
            return None if batch.counts is None else head(batch.counts).flatten()
        return head(batch.labels).flatten() != self.ignore_index

    # ---------------------------------------------------------------- quality

    def meter(self) -> Meter:
        """Return a new meter of the task's metrics; by default that of a classification's rows."""

        def rows(outputs: Any, batch: Batch) -> Tensor:
            found = self.rows(outputs, batch)
            if found is None:
                raise UsageError(f"task {self.key!r} has no class scores to measure; give it a meter()")
            return found

        def truths(batch: Batch) -> Tensor:
            labels, counts = head(batch.labels).flatten(), self._counts(batch)
            return labels if counts is None else labels[counts]

        return answers_of_classes(rows, truths)

    def evaluate(
        self,
        model: nn.Module,
        split: Split,
        *,
        batch_size: int = 128,
        subset: Subset | None = None,
        device: torch.device | str = "cpu",
        limit: int | None = None,
    ) -> dict[str, float]:
        """Return the metrics over a split, added up batch by batch; never holds the outputs of more than one.

        Core calls it with the model in eval mode and without gradients. Override it where quality isn't measured on
        batches, as in a game.

        :param limit: stop after this many batches, for a try.
        """
        meter = self.meter()
        batches = self.batches(split, batch_size=batch_size, subset=subset, device=device)
        for batch in itertools.islice(batches, limit):
            meter.update(full_precision(self.outputs(model, batch)), batch)
        return dict(meter.compute())

    # ---------------------------------------------------------------- what cache keys hold

    def describe(self) -> dict[str, Any]:
        """Return what identifies this task in a cache key, beside its data and code: its key and configuration."""
        return {"key": self.key}

    def fingerprint(self, split: Split) -> str:
        """Return a hash of a split's examples, in stored order: what other data gave isn't taken from a cache.

        Override it where the data are hashed faster as they lie, or differ from call to call.
        """
        parts, left = [], self.count(split)
        for batch in self.batches(split, batch_size=500):
            parts.append(hash_tree(batch.content()))
            left -= batch.size
            if left <= 0:  # as of a game that goes on for ever
                break
        return hash_tree(parts)


def squared_hinge(scores: Tensor, labels: Tensor, weights: Tensor | None, ignored: int) -> Tensor:
    """Return ``max(0, 1 - t s)^2``, the mean over decisions and classes: ``t`` is 1 for the class, -1 for the others.

    The loss of an L2-SVM, one against all, as BinaryConnect and Binarized Neural Networks are trained.

    :param scores: ``(batch, classes, ...)``; labels have its shape without the classes.
    :param weights: how much a decision of each class counts, ``(classes,)``; ``None``: all alike.
    :param ignored: the label of what doesn't count.
    """
    truths = labels.flatten()
    counts = truths != ignored
    rows, truths = scores.movedim(1, -1).flatten(0, -2)[counts], truths[counts]
    signs = 2 * nn.functional.one_hot(truths, rows.shape[1]) - 1
    each = (1 - signs * rows).clamp(min=0).square().mean(1)
    return each.mean() if weights is None else (each * weights[truths]).sum() / weights[truths].sum()


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
