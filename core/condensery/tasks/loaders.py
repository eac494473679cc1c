"""What a user's loaders give, read as batches; what is none is refused where it comes in, naming the split."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from numbers import Number
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from condensery.errors import CondenseryError, UsageError, in_line, short
from condensery.tasks.batches import Batch
from condensery.tasks.draws import drawn_apart
from condensery.tasks.splits import Split
from condensery.tasks.trees import examples_in

Loader = Iterable[Any]
LABELS = ("labels", "label")
"""Where a batch that is a mapping, as Hugging Face has them, keeps its labels."""
SEVERAL = "a batch holds several: DataLoader(data, batch_size=32)"


def check_loader(split: Split, loader: object) -> None:
    """Refuse what can't be gone through again and again, and what gives examples and no batches.

    :raises UsageError: saying what to give.
    """
    if isinstance(loader, Dataset) and not isinstance(loader, IterableDataset):
        raise UsageError(f"{split}: a {type(loader).__name__} gives one example at a time, and {SEVERAL}")
    if not (isinstance(loader, Iterable) or hasattr(loader, "__getitem__")) or isinstance(loader, str | Mapping):
        raise UsageError(f"{split}: give a DataLoader, or a list of batches, not {short(loader)}")
    if isinstance(loader, Tensor | np.ndarray) or _is_whole(loader):
        raise UsageError(f"{split}: that is a whole data set: DataLoader(TensorDataset(inputs, labels), batch_size=32)")
    if isinstance(loader, Iterator):
        raise UsageError(f"{split}: an iterator ends after one epoch; give a DataLoader, or a list of batches")


def _is_whole(loader: object) -> bool:
    """Tell whether a pair in a loader's place is one of inputs and labels: two batches of inputs are of one type."""
    if not isinstance(loader, tuple | list) or len(loader) != 2:
        return False
    one, two = loader
    both = (isinstance(one, Tensor) and isinstance(two, Tensor)) or isinstance(two, np.ndarray)
    return both and (one.dtype, one.shape[1:]) != (two.dtype, two.shape[1:])


def read(split: Split, loader: Loader, seed: int) -> Iterator[Batch]:
    """Yield the batches of one pass over a loader, all that it draws made from a seed; its generator is the user's.

    :raises UsageError: naming the split, for what is no batch, and for whatever the loader raises.
    """
    own = getattr(loader, "generator", None)
    others = [own] if isinstance(own, torch.Generator) else []
    nested = getattr(loader, "collate_fn", None) is default_collate
    passing = drawn_apart(lambda: iter(loader), seed, *others)
    while True:
        try:
            given = next(passing)
        except StopIteration:
            return
        except CondenseryError:
            raise
        except Exception as error:  # a data set is anybody's code
            # Of what a worker raised, torch makes one text with the traceback before what was said.
            said = str(error).strip().splitlines()[-1:] if "Original Traceback" in str(error) else []
            why = said[0] if said else f"{type(error).__name__}: {in_line(error)}"
            raise UsageError(f"{split}: the loader raises {why}") from error
        batch = as_batch(split, given, nested=nested)
        check_counts(split, batch)
        yield batch


def first_batch(split: Split, loader: Loader) -> Batch:
    """Return the first batch of a loader.

    :raises UsageError: if it gives none.
    """
    batch = next(read(split, loader, 0), None)
    if batch is None or not batch.size:
        raise UsageError(f"{split}: the data give no batch")
    return batch


def as_batch(split: Split, given: Any, *, nested: bool = False) -> Batch:
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
    if not isinstance(given, Sequence) or isinstance(given, str) or len(given) != 2:
        several = isinstance(given, Sequence) and not isinstance(given, str)
        kind = f"a {type(given).__name__}" + (f" of {len(given)}" if several else "")
        more = "; several inputs are a tuple, ((one, two), labels)" if several and len(given) > 2 else ""
        raise UsageError(
            f"{split}: a batch is a pair of inputs and labels, or a mapping with 'labels'; the data give {kind}{more}"
        )

    inputs, labels = given
    if nested:
        inputs, labels = (tuple(part) if isinstance(part, list) else part for part in (inputs, labels))
    elif isinstance(labels, tuple | list) and labels and all(isinstance(label, Mapping) for label in labels):
        # A detector's targets: one mapping for each example, and images of different sizes side by side.
        labels = list(labels)
        inputs = list(inputs) if isinstance(inputs, tuple) and len(inputs) == len(labels) else inputs
    return Batch(inputs, labels)


def check_counts(split: Split, batch: Batch) -> None:
    """Refuse a single example in a batch's place, and a batch whose inputs and labels aren't of the same examples.

    :raises UsageError: naming the split.
    """
    labels = batch.labels
    if isinstance(batch.inputs, np.ndarray):
        raise UsageError(f"{split}: inputs are a numpy array; make a tensor of it, torch.as_tensor(inputs)")
    if isinstance(labels, Number) or (isinstance(labels, Tensor) and not labels.dim()):
        raise UsageError(f"{split}: it gives one example at a time, with label {short(labels)}, and {SEVERAL}")
    if isinstance(batch.inputs, Tensor) and isinstance(labels, Tensor):
        have, wanted = examples_in(labels), examples_in(batch.inputs)
        if have != wanted:
            raise UsageError(
                f"{split}: a batch has {wanted} inputs and {have} labels: dimension 0 of both counts its examples"
            )


def sizes_of(loader: Loader) -> list[int]:
    """Return how many examples each batch of a loader will have, nothing where only a pass could tell."""
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset) or not loader.batch_size:
        return []
    examples, size = len(cast("Any", loader.sampler)), loader.batch_size
    rest = 0 if loader.drop_last else examples % size
    return [size] * (examples // size) + [rest] * bool(rest)
