"""What the tasks of GLUE share: rows read from their files or the hub, turned into numbers, kept in the cache."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch

from condensery import UsageError
from condensery.recipe import fingerprint
from condensery.tasks import Arrays, DataSet, Hub, Split, TaskFacts, read_gzip
from condensery_plugins.tasks.tensors import Stored, local_or_hub
from condensery_plugins.tasks.text import TextTask
from condensery_plugins.tasks.tokenizers import Encoder, PretrainedEncoder, WordEncoder

HUB_SPLITS: dict[Split, str] = {"train": "train", "test": "validation"}


def glue(files: Mapping[str, str], hub_files: Mapping[str, str]) -> DataSet:
    """Return where the data of one task come from.

    :param files: the sha256 of their content, by name.
    :param hub_files: the sha256 of the hub's files, by ``<task>/<split>``.
    """
    hub = Hub("nyu-mll/glue", "bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c", hub_files)
    return DataSet("glue", files, hub, source="gluebenchmark.com, each file gzip'd")


class Example(NamedTuple):
    """One row: a sentence, the second one of a pair or ``None``, and its label."""

    first: str
    second: str | None
    label: float


class Glue(TextTask):
    """A task of GLUE. Its ``test`` split is GLUE's *dev* set: GLUE keeps the labels of its test sets to itself.

    Wang, Singh, Michael, Hill, Levy, Bowman: "GLUE: A Multi-Task Benchmark and Analysis Platform for Natural Language
    Understanding", ICLR 2019, arXiv:1804.07461. Local files are ``glue/<TASK>_train.tsv.gz`` and ``_dev.tsv.gz``; their
    content is pinned, as the files of the hub's copy are.

    :param tokenizer: folder or hub id of a pretrained tokenizer, for a net that comes with one. Without it the
        vocabulary is the most frequent lower-case words and punctuation marks of the training sentences, see
        :class:`condensery_plugins.tasks.tokenizers.WordEncoder`.
    :param length: tokens in a row; longer sentences are cut, of a pair the longer one first.
    :param vocabulary: size of the built-in vocabulary.
    :param token_types: whether batches hold ``token_type_ids`` too, as BERT wants them for pairs.
    """

    file: ClassVar[str]
    """With what the names of its local files begin."""
    data_set: ClassVar[DataSet]
    header: ClassVar[bool] = True
    columns: ClassVar[tuple[int, int | None, int]]
    """Of the first sentence, the second one, and the label; negative ones count from the end."""
    hub_columns: ClassVar[tuple[str, str | None]] = ("sentence1", "sentence2")
    words: ClassVar[Mapping[str, int]] = {"0": 0, "1": 1}
    """Labels as they are written; empty where they are numbers."""
    scores: ClassVar[int] = 2
    default_model = "transformer"
    base = {
        "epochs": 5,
        "batch_size": 32,
        "optimizer": {"name": "adamw", "lr": 5e-4, "weight_decay": 0.01},
        "schedule": {"name": "linear", "warmup": 0.1},
        "clip_norm": 1.0,
    }

    def __init__(
        self, tokenizer: str | None = None, length: int = 64, vocabulary: int = 5000, token_types: bool = False
    ) -> None:
        super().__init__()
        if length < 8:
            raise UsageError(f"task {self.key}: length must be at least 8, got {length}")
        self.tokenizer, self.length, self.vocabulary = tokenizer, length, vocabulary
        self.extra = ("token_type_ids",) if token_types else ()

    @functools.cached_property
    def encoder(self) -> Encoder:
        """What turns sentences into numbers; a pretrained tokenizer is loaded when it is first asked for."""
        return WordEncoder(self.vocabulary) if self.tokenizer is None else PretrainedEncoder(self.tokenizer)

    @functools.cached_property
    def facts(self) -> TaskFacts:  # type: ignore[override]
        """Lazy, because the size of a pretrained vocabulary stands in its files."""
        return TaskFacts("text", outputs=self.scores, vocabulary=self.encoder.size, length=self.length)

    @property
    def files(self) -> dict[Split, str]:
        """Names of the local files."""
        return {"train": f"{self.file}_train.tsv.gz", "test": f"{self.file}_dev.tsv.gz"}

    def load(self, split: Split) -> Stored:
        """Read and tokenize both splits, once; the vocabulary is made from the training sentences."""
        inputs = ("input_ids", "attention_mask", *self.extra)
        keys = [f"{s}_{what}" for s in self.files for what in (*inputs, "labels")]
        name = f"glue-{self.key}-{fingerprint([self.describe(), sorted(self.data_set.files.items())])}"
        arrays = local_or_hub(
            name,
            keys,
            self.data_set,
            read=lambda folder: self._encode(functools.partial(self.read, folder)),
            fetch=lambda: self._encode(self.fetch),
        )

        stored = {what: torch.from_numpy(arrays[f"{split}_{what}"]) for what in inputs}
        return stored, torch.from_numpy(arrays[f"{split}_labels"])

    def read(self, folder: Path, split: Split) -> list[Example]:
        """Return the rows of a local file.

        :raises UsageError: naming the file if it is damaged, or the line that isn't a row.
        """
        path = folder / self.files[split]
        text = read_gzip(path, self.data_set.files).decode("utf-8-sig")
        lines = [line.removesuffix("\r") for line in text.split("\n") if line]
        return [self._example(path, n, line.split("\t")) for n, line in enumerate(lines, 1) if n > self.header]

    def _example(self, path: Path, number: int, cells: Sequence[str]) -> Example:
        """Return the row in the cells of a line."""
        first, second, label = self.columns
        try:
            value = self.words[cells[label]] if self.words else float(cells[label])
            return Example(cells[first], None if second is None else cells[second], value)
        except (IndexError, KeyError, ValueError):
            raise UsageError(f"{path}: line {number} is not a row of {self.file}: {cells!r:.80}") from None

    def fetch(self, split: Split) -> list[Example]:
        """Return the rows of the hub's copy."""
        columns = self.data_set.columns(f"{self.key}/{HUB_SPLITS[split]}")
        first, second = self.hub_columns
        labels = columns["label"]
        seconds = [None] * len(labels) if second is None else columns[second]
        return [Example(*row) for row in zip(columns[first], seconds, labels, strict=True)]

    def _encode(self, read: Callable[[Split], list[Example]]) -> Arrays:
        """Return the arrays of both splits, by split and what they are.

        :param read: returns the rows of a split.
        """
        examples = {split: read(split) for split in self.files}
        sentences = [s for e in examples["train"] for s in (e.first, e.second) if s is not None]
        self.encoder.fit(sentences)

        arrays: dict[str, Any] = {}
        for split, rows in examples.items():
            encoded = self.encoder.encode([(e.first, e.second) for e in rows], self.length)
            for what in ("input_ids", "attention_mask", *self.extra):
                arrays[f"{split}_{what}"] = encoded[what]
            kind = np.float32 if self.scores == 1 else np.int64
            arrays[f"{split}_labels"] = np.array([e.label for e in rows], kind)
        return arrays

    def describe(self) -> dict[str, Any]:
        """Return key, settings and the identity of the tokenizer."""
        return {
            "key": self.key,
            "length": self.length,
            "token_types": bool(self.extra),
            "tokenizer": self.encoder.identity,
        }
