"""Data and functions of every make: what is no batch, no label, no loss and no metric says so, and which it is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.core.front.nets import SIDE, Noisy, Plain, loaders
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import condensery
from condensery import UsageError

TRAIN, TEST = (list(loader) for loader in loaders())


def ask(**given: Any) -> None:
    condensery.compress(Plain(), "magnitude", **{"train": TRAIN, "quiet": True, **given})


def relabelled(change: Any) -> list[Any]:
    return [(images, change(labels)) for images, labels in TRAIN]


# ------------------------------------------------------------------ loaders


class Missing(Dataset[Tensor]):
    """A data set whose files have gone."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Tensor:
        raise FileNotFoundError(f"{index}.png")


NO_LOADERS: dict[str, tuple[Any, str]] = {
    "a data set": (Noisy(6), r"a Noisy gives one example at a time, and a batch holds several: DataLoader\(data, "),
    "no batches": (DataLoader(Noisy(6), batch_size=None), r"it gives one example at a time, with label tensor\(0\), "),
    "one number": ([(torch.zeros(1, 8, 8), 3)], "it gives one example at a time, with label 3, and a batch"),
    "a mapping": ({"images": 1}, "give a DataLoader, or a list of batches, not {'images': 1}"),
    "a file": ("data.pt", "give a DataLoader, or a list of batches, not 'data.pt'"),
    "a generator": ((batch for batch in TRAIN), "an iterator ends after one epoch"),
    "three": ([(1, 2, 3)], r"a batch is a pair .*a tuple of 3; several inputs are a tuple, \(\(one, two\), labels\)"),
    "files gone": (DataLoader(Missing(), batch_size=2), "the loader raises FileNotFoundError: 0.png"),
    "a worker's": (
        DataLoader(Missing(), batch_size=2, num_workers=1),
        "the loader raises FileNotFoundError: 0.png$",
    ),
    "a pair": (
        (torch.zeros(9, 1, 8, 8), torch.zeros(9).long()),
        r"that is a whole data set: DataLoader\(TensorDataset",
    ),
    "arrays": ([np.zeros((9, 1, 8, 8)), np.zeros(9)], r"that is a whole data set: DataLoader\(TensorDataset"),
    "a tensor": (torch.zeros(9, 1, 8, 8), r"that is a whole data set: DataLoader\(TensorDataset"),
    "numpy": ([(np.zeros((9, 1, 8, 8)), torch.zeros(9).long())], r"inputs are a numpy array; .*torch.as_tensor\("),
    "not as many": (relabelled(lambda labels: labels[1:]), "a batch has 20 inputs and 19 labels"),
}


@pytest.mark.parametrize("split", ["train", "test", "validation"])
@pytest.mark.parametrize("kind", NO_LOADERS)
def test_what_gives_no_batches_says_what_it_gives(kind: str, split: str) -> None:
    loader, said = NO_LOADERS[kind]
    with pytest.raises(UsageError, match=f"^{split}: {said}"):
        ask(**{split: loader})


class Stream(IterableDataset[Any]):
    """Gives batches, as files of packed examples do."""

    def __iter__(self) -> Iterator[Any]:
        yield from TRAIN


@pytest.mark.parametrize("loader", [Stream(), DataLoader(Stream(), batch_size=None)])
def test_a_stream_of_whole_batches_is_taken(loader: Any) -> None:
    ask(train=loader)


@pytest.mark.parametrize(
    ("batch", "said"),
    [
        ((torch.zeros(4, 3, SIDE, SIDE), torch.zeros(4).long()), r"float32 of shape \(2, 3, 8, 8\): RuntimeError: .*"),
        (([*torch.zeros(4, 1, SIDE, SIDE)], torch.zeros(4).long()), "list of .*: TypeError: "),
        (
            {"images": torch.zeros(4, 1, SIDE, SIDE), "target": torch.zeros(4).long()},
            "a mapping of .*argument 'target'",
        ),
    ],
)
def test_inputs_that_the_net_does_not_take(batch: Any, said: str) -> None:
    with pytest.raises(UsageError, match=f"^the net can't take what train gives, {said}"):
        ask(train=[batch])


# ------------------------------------------------------------------ labels


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda labels: labels.tolist(), r"labels are list of int, int, not a tensor; .*torch.as_tensor\("),
        (lambda labels: labels.numpy(), "labels are ndarray, not a tensor"),
        (lambda labels: ["cat"] * len(labels), "labels are list of str, .*with classes numbered from 0"),
        (lambda labels: labels.int(), r"labels are int32; give classes as int64, labels.long\(\)"),
        (lambda labels: labels + 1, "label 3, and the net tells 3 classes apart, numbered from 0"),
        (lambda labels: labels - 1, "label -1, and the net tells 3 classes apart"),
        (lambda labels: labels[:, None], r"int64 labels of shape \(2, 1\) don't go with outputs of shape \(2, 3\)"),
        (lambda labels: labels.float(), r"float32 labels of shape \(2,\) .*for labels .* of another kind give a loss"),
        (lambda labels: nn.functional.one_hot(labels, 3), r"int64 labels of shape \(2, 3\) don't go with"),
        (
            lambda labels: nn.functional.one_hot(labels, 3).float(),
            "labels are probabilities of classes, .*give metrics",
        ),
    ],
)
def test_labels_that_are_no_classes(change: Any, said: str) -> None:
    with pytest.raises(UsageError, match=f"^train: {said}"):
        ask(train=relabelled(change), test=TEST)


def test_each_batch_of_each_split_is_looked_at() -> None:
    with pytest.raises(UsageError, match=r"^test: label 7, and the net tells 3 classes apart"):
        ask(test=[*TEST, (TEST[0][0], torch.full((15,), 7))])


@pytest.mark.parametrize("split", ["test", "validation"])
@pytest.mark.parametrize("unlabelled", [[(TEST[0][0], None)], [TEST[0][0]]])
def test_figures_of_classes_need_labels(split: str, unlabelled: Any) -> None:
    with pytest.raises(UsageError, match=f"^{split}: the batches have no labels"):
        ask(**{split: unlabelled})
    ask(**{split: unlabelled}, metrics={"largest": lambda outputs, labels: outputs.max()})


def test_two_batches_without_labels_are_no_pair() -> None:
    """A student of a frozen teacher learns without."""
    two = [images for images, _ in TRAIN[:2]]
    condensery.compress(Plain(), "hinton-kd(alpha=1.0){teacher=original}", train=two, quiet=True)


def test_labels_that_do_not_count_and_probabilities_are_taken() -> None:
    ask(train=relabelled(lambda labels: labels.where(labels > 0, -100)), test=TEST)
    ask(train=relabelled(lambda labels: nn.functional.one_hot(labels, 3).float()))


def test_outputs_that_are_no_scores_need_a_loss() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(SIDE**2, 1), nn.Flatten(0))
    with pytest.raises(UsageError, match=r"the net's outputs of shape \(2,\) are no scores of classes; .*give a loss"):
        condensery.compress(net, "magnitude", train=relabelled(torch.zeros_like), quiet=True)


# ------------------------------------------------------------------ functions


def failing(outputs: Any, labels: Any) -> Tensor:
    raise ArithmeticError("no such thing")


FUNCTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "loss raises": ({"loss": failing}, r"loss: ArithmeticError: no such thing \(.*test_brought_data.py:\d+\)"),
    "loss of each": ({"loss": lambda outputs, labels: outputs}, r"loss: return the batch's mean .* of shape \("),
    "loss is a float": ({"loss": lambda outputs, labels: 1.0}, "loss: return the batch's mean loss, .*not float"),
    "loss is a name": ({"loss": "mse"}, "loss: give a function of outputs and labels, not 'mse'"),
    "loss is a class": ({"loss": nn.CrossEntropyLoss}, "loss: give a function of outputs and labels, not <class"),
    "rows": ({"rows": 5}, "rows: give a function of outputs and labels, not 5"),
    "rows raise": ({"rows": failing}, "rows: ArithmeticError"),
    "none": ({"metrics": {}}, "metrics: give functions of outputs and labels by name, {'mine': f}, not {}"),
    "list": ({"metrics": ["f1"]}, "metrics: give functions of outputs and labels by name, .*not "),
    "number": ({"metrics": {"mine": 5}}, "metrics: 'mine' is no function of outputs and labels: 5"),
    "no name": ({"metrics": {5: failing}}, "metrics: name each by a text or a condensery.tasks.Metric, not 5"),
    "raises": ({"metrics": {"mine": failing}}, r"metrics: 'mine': ArithmeticError: no such thing \(.*.py:\d+\)"),
    "nothing": ({"metrics": {"mine": lambda o, labels: None}}, "metrics: 'mine' must return one number .*NoneType"),
    "many": ({"metrics": {"mine": lambda o, labels: o}}, "metrics: 'mine' must return one number .*of shape"),
    "nan": ({"metrics": {"mine": lambda o, labels: float("nan")}}, "metrics: 'mine' returns nan for a batch whose out"),
}


@pytest.mark.parametrize("kind", FUNCTIONS)
def test_a_function_that_is_none_is_named(kind: str) -> None:
    given, said = FUNCTIONS[kind]
    with pytest.raises(UsageError, match=f"^{said}"):
        ask(test=TEST, **given)


def test_a_metric_of_torchmetrics_that_does_not_fit_is_named() -> None:
    regression = pytest.importorskip("torchmetrics.regression")
    with pytest.raises(UsageError, match=r"^metrics: 'error': RuntimeError"):
        ask(test=TEST, metrics={"error": regression.MeanSquaredError()})


def test_an_observer_that_is_none_is_told_before_anything_runs(tmp_path: Path) -> None:
    for observer in (5, condensery.Run):
        with pytest.raises(
            UsageError, match=r"^observer: give a function of a dict, or a condensery.run.Observer, not "
        ):
            ask(observer=observer, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_observer_ends_a_run_with_an_error_of_its_own() -> None:
    class Pruned(Exception):
        """As trackers of trials raise it, and catch it again."""

    def stop(epoch: dict[str, Any]) -> None:
        raise Pruned

    with pytest.raises(Pruned):
        ask(observer=stop)


def test_an_empty_loader() -> None:
    with pytest.raises(UsageError, match=r"^train: the data give no batch$"):
        ask(train=DataLoader(TensorDataset(torch.zeros(0, 1), torch.zeros(0)), batch_size=4))
