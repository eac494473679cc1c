"""Data that a user brings, in loaders of their own: a task that no registry knows."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, default_collate

from condensery.errors import UsageError, short
from condensery.tasks.batches import Batch
from condensery.tasks.draws import drawn_apart
from condensery.tasks.metrics import Accumulated, Joined, Meter, Metric
from condensery.tasks.splits import SEED, Split, Subset
from condensery.tasks.tasks import NO_LABEL, Task, TaskFacts
from condensery.tasks.trees import head, tensors_in

GIVEN = "given"
"""Key of a task, and of a model, that the user brought and no plugin offers."""
LABELS = ("labels", "label")
"""Where a batch that is a mapping, as Hugging Face has them, keeps its labels."""

Loader = Iterable[Any]
Figure = Callable[[Any, Any], Any]
"""Takes outputs and labels of a batch."""


class GivenTask(Task):
    """A task on loaders: what they give are its batches, in their order and at their size.

    A batch is a pair of inputs and labels, or a mapping with ``labels``; a larger one than the recipe's comes in parts.
    Whatever a loader draws depends on the run's seed: its shuffling, and the augmentation in its data set. Classes are
    numbers from 0, and -100 is one that doesn't count, as in torch's own loss.
    """

    key = GIVEN
    caches = False
    loaders: ClassVar[Mapping[Split, Loader]] = {}
    first: ClassVar[Batch]
    """Of the training data: read once, for all runs and dry runs that build the task."""
    sizes: ClassVar[dict[Split, list[int]]] = {}
    """By split, how many examples each batch has; likewise known from then on."""
    figures: ClassVar[Mapping[str, Any]] = {}
    """By metric, a function of outputs and labels that returns a batch's mean, or one of torchmetrics."""

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
        """Yield one pass over a split's loader, or the first ``subset.size`` examples of one that never changes.

        :raises UsageError: for another kind of subset.
        """
        left = count = self.count(split, subset)
        for batch in read(self.loaders[split], seed if subset is None else SEED):
            # In parts as equal as can be: a rest of one example is no batch to batch normalization.
            size = min(batch.size, left)
            parts = -(-size // batch_size)
            for part in range(parts):
                yield batch.part(size * part // parts, size * (part + 1) // parts).to(device)
            left -= batch.size
            if left <= 0:
                return
        raise UsageError(
            f"{split}: a pass ended after {count - left} of {count} examples; give data that can be gone through again "
            "and again, with as many each time"
        )

    def count(self, split: Split, subset: Subset | None = None) -> int:
        """Return the number of examples in one pass over a split's loader."""
        if not sum(self._batch_sizes(split)):
            raise UsageError(f"{split}: the data give no batch")
        subset = subset or Subset()
        if subset != Subset(size=subset.size):
            raise UsageError("data.subset: of data of your own only a size; give a loader with the examples you want")
        examples = sum(self._batch_sizes(split))
        return min(examples, subset.size or examples)

    def steps(self, split: Split, *, batch_size: int, subset: Subset | None = None) -> int:
        """Return how many batches one pass has, larger ones in parts."""
        left, steps = self.count(split, subset), 0
        for size in self._batch_sizes(split):
            steps += -(-min(size, max(left, 0)) // batch_size)
            left -= size
        return steps

    def example(self, batch_size: int = 2) -> Any:
        """Return the inputs of the first examples that the training data gave, as far as one batch goes."""
        return self.first.part(0, min(batch_size, self.first.size)).inputs

    @property
    def largest(self) -> int:
        """Number of examples in the largest batch of the training data."""
        return max(self._batch_sizes("train"))

    def meter(self) -> Meter:
        """Return a new meter: of the figures that were given, of the classes otherwise."""
        if not self.figures:
            return super().meter()
        library = {name: (copy.deepcopy(f), 1.0) for name, f in self.figures.items() if hasattr(f, "compute")}
        own = {name: figure for name, figure in self.figures.items() if name not in library}
        return Joined(Accumulated(library), Averaged(own))

    def _batch_sizes(self, split: Split) -> list[int]:
        """Return how many examples each batch of a split has; one pass tells where the loader doesn't."""
        if split not in self.sizes:
            loader = self.loaders[split]
            self.sizes[split] = sizes_of(loader) or [batch.size for batch in read(loader, 0)]
        return self.sizes[split]


class Averaged:
    """A meter of functions that return the mean over a batch, averaged over all examples."""

    def __init__(self, figures: Mapping[str, Figure]) -> None:
        self.figures, self.examples = figures, 0
        self.sums = dict.fromkeys(figures, 0.0)

    def update(self, outputs: Any, batch: Batch) -> None:
        """Take one batch."""
        self.examples += batch.size
        for name, figure in self.figures.items():
            self.sums[name] += batch.size * float(figure(outputs, batch.labels))

    def compute(self) -> dict[str, float]:
        """Return the means by name."""
        return {name: total / max(1, self.examples) for name, total in self.sums.items()}


def given_task(
    loaders: Mapping[Split, Loader],
    net: nn.Module,
    *,
    loss: Callable[[Any, Any], Tensor] | None = None,
    metrics: Mapping[str | Metric, Any] | None = None,
    rows: Callable[[Any, Any], Tensor] | None = None,
) -> type[GivenTask]:
    """Return the task of some loaders.

    :param loaders: by split, with ``train`` at least: a ``DataLoader``, or another iterable of batches.
    :param net: a copy of the net, which answers once, so that the task knows how wide outputs are.
    :param loss: takes outputs and labels, returns the mean loss; cross entropy of classes where it is left out.
    :param metrics: see :func:`condensery.compress`; the loss where only that is given.
    :param rows: takes outputs and labels, returns the class scores of each decision, ``(rows, classes)``.
    :raises UsageError: for data that can be gone through only once, or that are no batches.
    """
    for split, loader in loaders.items():
        if not (isinstance(loader, Iterable) or hasattr(loader, "__getitem__")):
            raise UsageError(f"{split}: give a DataLoader, or a list of batches, not {short(loader)}")
        if isinstance(loader, Iterator):
            raise UsageError(f"{split}: an iterator ends after one epoch; give a DataLoader, or a list of batches")

    body: dict[str, Any] = {"loaders": loaders, "splits": tuple(loaders), "sizes": {}, "__module__": __name__}
    body["first"] = first_batch(loaders["train"])
    if loss is not None:
        given_loss = loss
        body["loss"] = lambda self, outputs, batch: None if batch.labels is None else given_loss(outputs, batch.labels)
        body["weight"] = lambda self, batch: float(batch.size)
    elif any(not labels.is_floating_point() for labels in tensors_in(body["first"].labels)):
        body["ignore_index"] = NO_LABEL
    if rows is not None:
        given_rows = rows
        body["rows"] = lambda self, outputs, batch: given_rows(outputs, batch.labels)
    if metrics is None and loss is not None:
        metrics = {Metric("loss", "", False): loss}
    if metrics is not None:
        named = {m if isinstance(m, Metric) else Metric(m, "", True): figure for m, figure in metrics.items()}
        body["metrics"], body["figures"] = tuple(named), {m.name: figure for m, figure in named.items()}

    made = cast("type[GivenTask]", type("GivenTask", (GivenTask,), body))
    made.facts = facts_of(net, made())
    return made


# ------------------------------------------------------------------ what loaders give


def read(loader: Loader, seed: int) -> Iterator[Batch]:
    """Yield the batches of one pass over a loader, all that it draws made from a seed; its generator is the user's."""
    own = getattr(loader, "generator", None)
    others = [own] if isinstance(own, torch.Generator) else []
    nested = getattr(loader, "collate_fn", None) is default_collate
    for given in drawn_apart(lambda: iter(loader), seed, *others):
        yield as_batch(given, nested=nested)


def first_batch(loader: Loader) -> Batch:
    """Return the first batch of a loader.

    :raises UsageError: if it gives none.
    """
    batch = next(read(loader, 0), None)
    if batch is None or not batch.size:
        raise UsageError("train: the data give no batch")
    return batch


def as_batch(given: Any, *, nested: bool = False) -> Batch:
    """Return what a loader gave as a batch.

    :param nested: whether lists stand for tuples, as torch's own collating makes them of examples that are tuples.
    :raises UsageError: for what is neither a pair nor a mapping.
    """
    if isinstance(given, Batch):
        return given
    if isinstance(given, Mapping):
        named = dict(given)
        answers = next((named.pop(name) for name in LABELS if name in named), None)
        return Batch(named, answers)
    if isinstance(given, Tensor):
        return Batch(given)
    if not isinstance(given, Sequence) or len(given) != 2:
        kind = f"a {type(given).__name__}" + (f" of {len(given)}" if isinstance(given, Sequence) else "")
        raise UsageError(f"a batch is a pair of inputs and labels, or a mapping with 'labels'; the data give {kind}")

    inputs, labels = given
    if nested:
        inputs, labels = (tuple(part) if isinstance(part, list) else part for part in (inputs, labels))
    elif isinstance(labels, tuple | list) and all(isinstance(label, Mapping) for label in labels):
        # A detector's targets: one mapping for each example, and images of different sizes side by side.
        labels = list(labels)
        inputs = list(inputs) if isinstance(inputs, tuple) and len(inputs) == len(labels) else inputs
    return Batch(inputs, labels)


def sizes_of(loader: Loader) -> list[int]:
    """Return how many examples each batch of a loader will have, nothing where only a pass could tell."""
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset) or not loader.batch_size:
        return []
    examples, size = len(cast("Any", loader.sampler)), loader.batch_size
    rest = 0 if loader.drop_last else examples % size
    return [size] * (examples // size) + [rest] * bool(rest)


def facts_of(net: nn.Module, task: GivenTask) -> TaskFacts:
    """Return what a model builder must know to build another net for the same data, as far as a batch tells.

    :param net: a copy, whose modes may change.
    """
    inputs = Batch(task.example()).to(next(net.parameters(), torch.empty(0)).device).inputs
    with torch.no_grad():
        answer = head(task.outputs(net.eval(), Batch(inputs)))
    outputs = answer.shape[1] if answer.dim() > 1 else 1

    if isinstance(inputs, Mapping) and "input_ids" in inputs:
        words = max((m.num_embeddings for m in net.modules() if isinstance(m, nn.Embedding)), default=0)
        return TaskFacts("text", outputs, vocabulary=words, length=inputs["input_ids"].shape[1])
    if not isinstance(inputs, Tensor) or not inputs.is_floating_point() or not 2 <= inputs.dim() <= 4:
        return TaskFacts(GIVEN, outputs)
    if inputs.dim() == 4:
        return TaskFacts("image", outputs, inputs.shape[1], height=inputs.shape[2], width=inputs.shape[3])
    if inputs.dim() == 3:
        return TaskFacts("sequence", outputs, size=inputs.shape[2], length=inputs.shape[1])
    return TaskFacts("vector", outputs, size=inputs.shape[1])
