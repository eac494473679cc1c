from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn import metrics
from tests.plugins.tasks.conftest import Offer
from torch import Tensor

from condensery.errors import UsageError
from condensery.recipe import TrainSpec, checked
from condensery.tasks import Batch
from condensery_plugins.tasks.glue import Cola, Mrpc, Rte, Sst2, Stsb
from condensery_plugins.tasks.glue_task import Example, Glue, glue

TASKS: tuple[type[Glue], ...] = (Sst2, Cola, Mrpc, Rte, Stsb)
LINES = {
    Sst2: ["sentence\tlabel", 'a "good film \t1', "dull\t0", "a film\t1"],
    Cola: ["gj04\t1\t\tHe ran.", "gj04\t0\t*\tRan he", "bc01\t1\t\tHe, he ran"],
    Mrpc: ["\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String", '1\t7\t8\tA "b\tB a', "0\t7\t9\tA b\tC"],
    Rte: ["index\tsentence1\tsentence2\tlabel", "0\tA b\tB\tnot_entailment", "1\tA b\tA\tentailment"],
    Stsb: ["index\tgenre\tsentence1\tsentence2\tscore", "0\tx\tA b\tB\t2.500", "1\tx\tA\tA\t5.000"],
}
EXAMPLES = {
    Sst2: [Example('a "good film ', None, 1), Example("dull", None, 0), Example("a film", None, 1)],
    Cola: [Example("He ran.", None, 1), Example("Ran he", None, 0), Example("He, he ran", None, 1)],
    Mrpc: [Example('A "b', "B a", 1), Example("A b", "C", 0)],
    Rte: [Example("A b", "B", 1), Example("A b", "A", 0)],
    Stsb: [Example("A b", "B", 2.5), Example("A", "A", 5.0)],
}
COUNTS = {Sst2: (67_349, 872), Cola: (8_551, 1_043), Mrpc: (3_667, 408), Rte: (2_490, 277), Stsb: (5_749, 1_500)}
ONES = {Sst2: (37_569, 444), Cola: (6_023, 721), Mrpc: (2_473, 279), Rte: (1_241, 131)}


@pytest.fixture
def files(own_places: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A few rows of each task, as GLUE writes them, line ends of both kinds."""
    folder = own_places / "glue"
    folder.mkdir(parents=True)
    for task, lines in LINES.items():
        monkeypatch.setattr(task, "data_set", glue(dict.fromkeys(task.data_set.files, ""), {}))
        for name, end in ((f"{task.file}_train", "\n"), (f"{task.file}_dev", "\r\n")):
            (folder / f"{name}.tsv.gz").write_bytes(gzip.compress((end.join(lines) + end).encode()))
    return folder


@pytest.mark.parametrize("task", TASKS)
def test_rows_are_read_as_glue_writes_them(task: type[Glue], files: Path) -> None:
    assert task().read(files, "train") == EXAMPLES[task]
    assert task().read(files, "test") == EXAMPLES[task]


@pytest.mark.parametrize("task", TASKS)
def test_the_hubs_rows_are_the_same(task: type[Glue], offer: Offer) -> None:
    rows = EXAMPLES[task]
    first, second = task.hub_columns
    columns: dict[str, list[Any]] = {first: [row.first for row in rows], "label": [row.label for row in rows]}
    if second is not None:
        columns[second] = [str(row.second) for row in rows]
    offer(task, {f"{task.key}/train": columns, f"{task.key}/validation": columns})
    assert task().fetch("train") == task().fetch("test") == rows


@pytest.mark.parametrize("task", TASKS)
def test_batches_have_the_declared_shape(task: type[Glue], files: Path) -> None:
    made = task(length=8, token_types=True)
    (batch,) = made.batches("test", batch_size=10)
    example = made.example(len(EXAMPLES[task]))
    assert set(batch.inputs) == set(example) == {"input_ids", "attention_mask", "token_type_ids"}
    assert all(batch.inputs[name].shape == example[name].shape for name in example)
    assert batch.labels is not None
    assert batch.labels.tolist() == [e.label for e in EXAMPLES[task]]
    assert batch.labels.dtype == (torch.float32 if task is Stsb else torch.int64)
    assert set(task(length=8).example()) == {"input_ids", "attention_mask"}


def test_the_vocabulary_is_made_from_the_training_sentences(files: Path) -> None:
    path = files / "CoLA_dev.tsv.gz"
    path.write_bytes(gzip.compress(b"gj04\t1\t\tHe flew.\n"))
    inputs = Cola(length=8).split("test")[0]["input_ids"]
    assert inputs.tolist() == [[2, 4, 1, 7, 0, 0, 0, 0]]  # he, unknown, full stop; "he" is the most frequent


def test_encoded_rows_are_kept_by_settings(files: Path, own_places: Path) -> None:
    first = Cola(length=8).split("train")[0]["input_ids"]
    assert Cola(length=9).split("train")[0]["input_ids"].shape == (3, 9)
    for path in files.iterdir():
        path.unlink()
    assert torch.equal(first, Cola(length=8).split("train")[0]["input_ids"])
    with pytest.raises(UsageError, match="'glue' not found"):
        Cola(length=10).split("train")


def test_a_broken_row_is_named(files: Path) -> None:
    (files / "RTE_dev.tsv.gz").write_bytes(gzip.compress(b"index\tsentence1\tsentence2\tlabel\n0\tA\tB\tmaybe\n"))
    with pytest.raises(UsageError, match=r"RTE_dev\.tsv\.gz: line 2 is not a row of RTE"):
        Rte().split("test")


def test_other_content_than_the_pinned_is_refused(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Sst2, "data_set", glue(dict.fromkeys(Sst2.data_set.files, "0" * 64), {}))
    with pytest.raises(UsageError, match=r"SST-2_train\.tsv\.gz: damaged or another version"):
        Sst2().split("train")


def test_missing_data_names_every_place(own_places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UsageError, match=r"CONDENSERY_DATA/glue.*cache/data/glue.*'nyu-mll/glue'"):
        Sst2().count("train")


def scored(task: Glue, outputs: Tensor, labels: Tensor) -> dict[str, float]:
    """Return the task's figures of outputs that come in two batches."""
    meter, half = task.meter(), len(labels) // 2
    for part in (slice(0, half), slice(half, None)):
        meter.update(outputs[part], Batch(outputs[part], labels[part]))
    return dict(meter.compute())


@pytest.mark.parametrize("task", TASKS)
def test_scores_are_those_that_are_declared(task: type[Glue]) -> None:
    made = task()
    logits = torch.randn(30, made.facts.outputs, generator=torch.Generator().manual_seed(2))
    labels = torch.rand(30) * 5 if task is Stsb else torch.arange(30) % 2
    assert set(scored(made, logits, labels)) == {m.name for m in task.metrics}
    checked(TrainSpec, task.base, "base")


def test_scores_by_hand() -> None:
    # Answers 1 1 1 0 0 1 for labels 1 1 0 0 1 1: three hits, one false alarm, one right no, one miss.
    logits = torch.nn.functional.one_hot(torch.tensor([1, 1, 1, 0, 0, 1]), 2).float()
    labels = torch.tensor([1, 1, 0, 0, 1, 1])
    assert scored(Mrpc(), logits, labels)["f1"] == pytest.approx(100 * 2 * 3 / (2 * 3 + 1 + 1))
    assert scored(Mrpc(), logits, labels)["accuracy"] == pytest.approx(100 * 4 / 6)
    assert scored(Cola(), logits, labels)["matthews"] == pytest.approx((3 * 1 - 1 * 1) / (4 * 4 * 2 * 2) ** 0.5)


def test_scores_against_other_libraries() -> None:
    generator = np.random.default_rng(4)
    answers, labels = generator.integers(0, 2, 200), generator.integers(0, 2, 200)
    logits = torch.nn.functional.one_hot(torch.from_numpy(answers), 2).float()
    gold = torch.from_numpy(labels)
    assert scored(Cola(), logits, gold)["matthews"] == pytest.approx(
        metrics.matthews_corrcoef(labels, answers), abs=1e-6
    )
    assert scored(Mrpc(), logits, gold)["f1"] == pytest.approx(100 * metrics.f1_score(labels, answers), abs=1e-4)
    said, scores = generator.normal(size=200), generator.integers(0, 11, 200) / 2  # with ties
    got = scored(Stsb(), torch.from_numpy(said).float()[:, None], torch.from_numpy(scores).float())
    ranks = [np.array([(all_ < v).sum() + ((all_ == v).sum() - 1) / 2 for v in all_]) for all_ in (said, scores)]
    assert got["pearson"] == pytest.approx(np.corrcoef(said, scores)[0, 1], abs=1e-6)
    assert got["spearman"] == pytest.approx(np.corrcoef(ranks[0], ranks[1])[0, 1], abs=1e-6)
    assert got["loss"] == pytest.approx(np.square(said - scores).mean(), rel=1e-6)


def test_a_constant_answer_scores_zero() -> None:
    labels = torch.tensor([0, 1, 1, 0])
    assert scored(Cola(), torch.tensor([[0.0, 1.0]] * 4), labels)["matthews"] == 0
    assert scored(Mrpc(), torch.tensor([[1.0, 0.0]] * 4), labels)["f1"] == 0
    same = scored(Stsb(), torch.full((4, 1), 2.0), torch.tensor([0.0, 1.0, 2.0, 5.0]))
    assert (same["pearson"], same["spearman"]) == (0, 0)


def test_the_regression_trains_on_squared_error() -> None:
    task = Stsb()
    loss = task.loss(torch.tensor([[1.0], [4.0]]), Batch(None, torch.tensor([2.0, 2.0])))
    assert loss is not None
    assert loss.item() == pytest.approx((1 + 4) / 2)
    assert task.loss(torch.zeros(2, 1), Batch(None)) is None
    assert task.facts.outputs == 1


def test_a_length_too_small_is_refused() -> None:
    with pytest.raises(UsageError, match="length must be at least 8, got 4"):
        Sst2(length=4)


@pytest.mark.data
@pytest.mark.parametrize("task", TASKS)
def test_the_real_sets(task: type[Glue], need_data: Callable[[str], Path]) -> None:
    need_data("glue")
    made = task()
    assert (made.count("train"), made.count("test")) == COUNTS[task]
    labels = (made.split("train")[1], made.split("test")[1])
    if task is Stsb:
        assert all(float(y.min()) == 0 and float(y.max()) == 5 for y in labels)
    else:
        assert tuple(int(y.sum()) for y in labels) == ONES[task]
    ids = made.split("train")[0]["input_ids"]
    assert int(ids.max()) == made.facts.vocabulary - 1, "the whole vocabulary is used"
