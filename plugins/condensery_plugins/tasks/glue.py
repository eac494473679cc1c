"""Five tasks of GLUE. The ``test`` split is GLUE's development set: its own test labels are not public."""

from __future__ import annotations

import gzip
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from condensery.data import find_data, missing_data
from condensery.errors import UsageError
from condensery.tasks import ACCURACY, Metric, TaskFacts, accuracy_metrics
from condensery_plugins.tasks.words import PAD, START, UNKNOWN, TextTask

HUB = "nyu-mll/glue"
_WORDS = re.compile(r"\w+|[^\w\s]")


class Glue(TextTask):
    """One GLUE task, read from tab-separated files with quoting off.

    Without a tokenizer, tokens are lower-case words and marks of the training text, the most frequent first: a net
    from scratch needs no more, and nothing has to be fetched.

    :param tokenizer: path or hub id of a transformers tokenizer, for a net that brings one.
    :param length: tokens kept of each text or pair.
    :param vocabulary: words kept, without a tokenizer.
    """

    file: ClassVar[str]
    columns: ClassVar[tuple[int, ...]]
    label_column: ClassVar[int]
    labels: ClassVar[Mapping[str, int]] = {"0": 0, "1": 1}
    header: ClassVar[bool] = True
    outputs: ClassVar[int] = 2
    default_model = "transformer"
    base: ClassVar[Mapping[str, Any]] = {
        "epochs": 3,
        "batch_size": 32,
        "optimizer": {"name": "adamw", "lr": 5e-4, "weight_decay": 0.01},
        "schedule": {"name": "linear", "warmup": 0.1},
    }

    def __init__(self, tokenizer: str | None = None, length: int = 64, vocabulary: int = 8000) -> None:
        if not isinstance(length, int) or length < 4:
            raise UsageError(f"task {self.key!r}: length must be a whole number of at least 4, got {length!r}")
        self.tokenizer_name = tokenizer
        self._tokenizer: Any = None
        if tokenizer is not None:
            from transformers import AutoTokenizer

            try:
                self._tokenizer = AutoTokenizer.from_pretrained(tokenizer)
            except (OSError, ValueError) as error:
                raise UsageError(
                    f"task {self.key!r}: no tokenizer at {tokenizer!r} ({str(error).splitlines()[0]})"
                ) from None
            vocabulary = len(self._tokenizer)
        self.facts = TaskFacts("text", outputs=self.outputs, vocabulary=vocabulary, length=length)

    def rows(self, split: str) -> list[tuple[list[str], float]]:
        """Return texts and label of each row."""
        name = f"{self.file}_{'train' if split == 'train' else 'dev'}.tsv.gz"
        folder = find_data("glue", [name])
        if folder is None:
            raise missing_data("glue", [name], HUB, "put the files of GLUE's download in one of the folders")
        try:
            lines = gzip.decompress((folder / name).read_bytes()).decode("utf-8-sig").rstrip("\n").split("\n")
        except (OSError, EOFError, UnicodeDecodeError) as error:
            raise UsageError(f"{folder / name}: damaged: {error}") from None
        found = []
        for line in lines[1 if self.header else 0 :]:
            cells = line.rstrip("\r").split("\t")
            label = cells[self.label_column]
            found.append(([cells[c] for c in self.columns], float(self.labels[label] if self.labels else label)))
        return found

    def load(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Read and encode both splits."""
        rows = {split: self.rows(split) for split in ("train", "test")}
        if self._tokenizer is None:
            counted = Counter(w for texts, _ in rows["train"] for text in texts for w in _WORDS.findall(text.lower()))
            common = sorted(counted, key=lambda w: (-counted[w], w))[: self.facts.vocabulary - START - 1]
            code = {w: START + 1 + i for i, w in enumerate(common)}
        out = {}
        for split, pairs in rows.items():
            if self._tokenizer is not None:
                texts = [list(column) for column in zip(*[t for t, _ in pairs], strict=True)]
                options = {"padding": "max_length", "truncation": True, "max_length": self.facts.length}
                ids = self._tokenizer(*texts, return_tensors="pt", **options)["input_ids"]
            else:
                ids = torch.full((len(pairs), self.facts.length), PAD)
                for row, (texts_, _) in enumerate(pairs):
                    tokens = [
                        t
                        for text in texts_
                        for t in (START, *(code.get(w, UNKNOWN) for w in _WORDS.findall(text.lower())))
                    ]
                    kept = tokens[: self.facts.length]
                    ids[row, : len(kept)] = torch.tensor(kept)
            values = torch.tensor([label for _, label in pairs])
            out[split] = (ids, values if self.outputs == 1 else values.long())
        return out

    def describe(self) -> dict[str, Any]:
        """Return key and settings."""
        facts = self.facts
        return {
            "key": self.key,
            "tokenizer": self.tokenizer_name,
            "length": facts.length,
            "vocabulary": facts.vocabulary,
        }


class Sst2(Glue):
    """SST-2: is a film review's sentence positive. Accuracy."""

    key, file, columns, label_column = "sst2", "SST-2", (0,), 1


class Cola(Glue):
    """CoLA: is a sentence acceptable English. Matthews correlation."""

    key, file, columns, label_column, header = "cola", "CoLA", (3,), 1, False
    metrics = (Metric("matthews", "correlation", True), *ACCURACY)

    def score(self, logits: Tensor, labels: Tensor) -> dict[str, float]:
        """Return Matthews correlation and accuracy."""
        from torchmetrics.functional import matthews_corrcoef

        correlation = matthews_corrcoef(logits.argmax(1), labels, task="binary")
        return {"matthews": float(correlation), **accuracy_metrics(logits, labels)}


class Mrpc(Glue):
    """MRPC: do two sentences say the same. Accuracy and F1."""

    key, file, columns, label_column = "mrpc", "MRPC", (3, 4), 0
    metrics = (*ACCURACY, Metric("f1", "%", True))

    def score(self, logits: Tensor, labels: Tensor) -> dict[str, float]:
        """Return accuracy and F1."""
        from torchmetrics.functional import f1_score

        return {
            **accuracy_metrics(logits, labels),
            "f1": 100 * float(f1_score(logits.argmax(1), labels, task="binary")),
        }


class Rte(Glue):
    """RTE: does one text follow from another. Accuracy."""

    key, file, columns, label_column = "rte", "RTE", (1, 2), 3
    labels: ClassVar[Mapping[str, int]] = {"entailment": 0, "not_entailment": 1}


class Stsb(Glue):
    """STS-B: how alike are two sentences, 0 to 5. Pearson and Spearman correlation; trained by squared error."""

    key, file, columns, label_column = "stsb", "STS-B", (7, 8), 9
    labels: ClassVar[Mapping[str, int]] = {}
    outputs = 1
    metrics = (
        Metric("pearson", "correlation", True),
        Metric("spearman", "correlation", True),
        Metric("loss", "squared error", False),
    )

    def loss(self, logits: Tensor, labels: Tensor | None) -> Tensor | None:
        """Return the mean squared error."""
        return None if labels is None else nn.functional.mse_loss(logits[:, 0], labels)

    def score(self, logits: Tensor, labels: Tensor) -> dict[str, float]:
        """Return both correlations and the loss."""
        from torchmetrics.functional import pearson_corrcoef, spearman_corrcoef

        said = logits[:, 0]
        loss = float(nn.functional.mse_loss(said, labels))
        return {
            "pearson": float(pearson_corrcoef(said, labels)),
            "spearman": float(spearman_corrcoef(said, labels)),
            "loss": loss,
        }
