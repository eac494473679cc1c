"""Data that a user brings, in loaders of their own: a task that no registry knows."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, SupportsFloat, cast

import torch
from torch import Tensor, nn

from condensery.errors import UsageError, called, cut, in_line, short
from condensery.tasks.batches import Batch
from condensery.tasks.loaders import Loader, check_loader, first_batch, read, sizes_of
from condensery.tasks.metrics import Accumulated, Joined, Meter, Metric
from condensery.tasks.splits import SEED, Split, Subset
from condensery.tasks.tasks import NO_LABEL, Task, TaskFacts
from condensery.tasks.trees import head, tensors_in

GIVEN = "given"
"""Key of a task, and of a model, that the user brought and no plugin offers."""
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
        for batch in read(split, self.loaders[split], seed if subset is None else SEED):
            if batch.labels is None and split != "train" and not self.figures:
                raise UsageError(f"{split}: the batches have no labels, and without any there is no accuracy")
            if type(self).loss is Task.loss:
                check_classes(split, batch.labels, self.facts.outputs)
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
            self.sizes[split] = sizes_of(loader) or [batch.size for batch in read(split, loader, 0)]
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
            value = number(name, called(f"metrics: {name!r}", figure, outputs, batch.labels))
            if not math.isfinite(value) and all(bool(tensor.isfinite().all()) for tensor in tensors_in(outputs)):
                raise UsageError(f"metrics: {name!r} returns {value} for a batch whose outputs are finite")
            self.sums[name] += batch.size * value

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
        check_loader(split, loader)
    for name, function in (("loss", loss), ("rows", rows)):
        if function is not None and (not callable(function) or isinstance(function, type)):
            raise UsageError(f"{name}: give a function of outputs and labels, not {short(function)}")

    body: dict[str, Any] = {"loaders": loaders, "splits": tuple(loaders), "sizes": {}, "__module__": __name__}
    body["first"] = first_batch("train", loaders["train"])
    if loss is not None:
        mean_loss = loss_of(loss)
        body["loss"] = lambda self, outputs, batch: None if batch.labels is None else mean_loss(outputs, batch.labels)
        body["weight"] = lambda self, batch: float(batch.size)
    elif any(not labels.is_floating_point() for labels in tensors_in(body["first"].labels)):
        body["ignore_index"] = NO_LABEL
    if rows is not None:
        given_rows = rows
        body["rows"] = lambda self, outputs, batch: called("rows", given_rows, outputs, batch.labels)
    if metrics is None and loss is not None:
        metrics = {Metric("loss", "", False): loss}
    if metrics is not None:
        named = named_figures(metrics)
        body["metrics"], body["figures"] = tuple(named), {m.name: figure for m, figure in named.items()}

    made = cast("type[GivenTask]", type("GivenTask", (GivenTask,), body))
    made.facts = facts_of(net, made())
    return made


# ------------------------------------------------------------------ what a user's functions are, and what they return


def loss_of(function: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Tensor]:
    """Return a user's loss that says so where it raises, or returns anything but a mean."""

    def loss(outputs: Any, labels: Any) -> Tensor:
        found = called("loss", function, outputs, labels)
        if isinstance(found, Tensor) and found.numel() == 1:
            return found.reshape(())
        raise UsageError(f"loss: return the batch's mean loss, one number in a tensor, not {in_words(found)}")

    return loss


def number(name: str, found: Any) -> float:
    """Return what a user's metric returned as a number.

    :raises UsageError: naming the metric.
    """
    if isinstance(found, SupportsFloat) and not (isinstance(found, Tensor) and found.numel() != 1):
        return float(found)
    raise UsageError(f"metrics: {name!r} must return one number for a batch, not {in_words(found)}")


def named_figures(metrics: object) -> dict[Metric, Any]:
    """Return what a user gave as metrics by what is known of each.

    :raises UsageError: saying what to give.
    """
    if not isinstance(metrics, Mapping) or not metrics:
        raise UsageError(f"metrics: give functions of outputs and labels by name, {{'mine': f}}, not {short(metrics)}")
    named = {}
    for metric, figure in metrics.items():
        if not isinstance(metric, str | Metric):
            raise UsageError(f"metrics: name each by a text or a condensery.tasks.Metric, not {short(metric)}")
        known = metric if isinstance(metric, Metric) else Metric(metric, "", True)
        if isinstance(figure, type) or not (callable(figure) or hasattr(figure, "compute")):
            raise UsageError(f"metrics: {known.name!r} is no function of outputs and labels: {short(figure)}")
        named[known] = figure
    return named


# ------------------------------------------------------------------ what the data are to a net


def check_classes(split: Split, labels: Any, classes: int) -> None:
    """Refuse labels that aren't numbers of classes, where no loss says what they are.

    Class probabilities, floats, are for torch's cross entropy too: whether they fit, it says itself.

    :param classes: that the net tells apart.
    :raises UsageError: naming the split, and what to give.
    """
    if labels is None:
        return
    found = tensors_in(labels)
    if not found:
        raise UsageError(
            f"{split}: labels are {in_words(labels)}, not a tensor; make one of them, torch.as_tensor(labels), with "
            "classes numbered from 0"
        )

    numbers = found[0]
    if numbers.is_floating_point():
        return
    if numbers.dtype not in (torch.int64, torch.uint8):
        raise UsageError(f"{split}: labels are {in_words(numbers.dtype)}; give classes as int64, labels.long()")

    if numbers.device.type == "cpu" and numbers.numel():  # elsewhere a look would wait for the device
        low, high = map(int, numbers.aminmax())
        if high >= classes or (low < 0 and bool(((numbers < 0) & (numbers != NO_LABEL)).any())):
            wrong = high if high >= classes else low
            raise UsageError(
                f"{split}: label {wrong}, and the net tells {classes} classes apart, numbered from 0; "
                f"{NO_LABEL} is what doesn't count"
            )


def check_shapes(scores: Tensor, labels: Any) -> None:
    """Refuse labels whose shape doesn't go with the net's outputs, where no loss says how they do.

    :raises UsageError: saying which shape would.
    """
    own = "; for labels or outputs of another kind give a loss, and metrics"
    if scores.dim() < 2:
        raise UsageError(f"the net's outputs of shape {tuple(scores.shape)} are no scores of classes{own}")
    have, wanted = head(labels), (scores.shape[0], *scores.shape[2:])
    fits = have.shape == scores.shape if have.is_floating_point() else have.shape == wanted
    if not fits:
        kind = f"{in_words(have.dtype)} labels of shape {tuple(have.shape)}"
        raise UsageError(
            f"train: {kind} don't go with outputs of shape {tuple(scores.shape)}, whose classes are int64 of shape "
            f"{tuple(wanted)}{own}"
        )


def in_words(value: Any) -> str:
    """Return in a few words of what types and shapes something is."""
    if isinstance(value, torch.dtype):
        return str(value).removeprefix("torch.")
    if isinstance(value, Tensor):
        return f"{in_words(value.dtype)} of shape {tuple(value.shape)}"
    if isinstance(value, Mapping):
        return "a mapping of " + ", ".join(f"{name}: {in_words(part)}" for name, part in value.items())
    if isinstance(value, tuple | list) and value:
        more = ", ..." if len(value) > 3 else ""
        return f"{type(value).__name__} of {', '.join(map(in_words, value[:3]))}{more}"
    return type(value).__name__


def facts_of(net: nn.Module, task: GivenTask) -> TaskFacts:
    """Return what a model builder must know to build another net for the same data, as far as a batch tells.

    :param net: a copy, whose modes may change.
    :raises UsageError: if the net can't take the inputs, or the labels don't go with what it gives.
    """
    device = next(net.parameters(), torch.empty(0)).device
    batch = task.first.part(0, min(2, task.first.size)).to(device)
    inputs = batch.inputs
    try:
        with torch.no_grad():
            given = task.outputs(net.eval(), batch)
    except Exception as error:  # a net is anybody's code
        why = f"{type(error).__name__}: {in_line(error)}"
        raise UsageError(f"the net can't take what train gives, {cut(in_words(inputs))}: {why}") from error
    if not tensors_in(given):
        raise UsageError(
            f"the net returns {in_words(given)}: let it return a tensor, or a tuple or dict of tensors, of which the "
            "first one counts, or 'logits'"
        )
    answer = head(given)
    if batch.labels is not None and type(task).loss is Task.loss:
        check_classes("train", batch.labels, answer.shape[1] if answer.dim() > 1 else 1)
        check_shapes(answer, batch.labels)
        if head(batch.labels).is_floating_point() and not task.figures and task.splits != ("train",):
            raise UsageError("train: labels are probabilities of classes, which no accuracy counts; give metrics too")
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
