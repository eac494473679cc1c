"""Five tasks of GLUE: sentences and pairs of sentences."""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from condensery.errors import UsageError
from condensery.recipe import fingerprint
from condensery.tasks import (
    ACCURACY,
    Arrays,
    Metric,
    Split,
    TaskFacts,
    accuracy_metrics,
    find_data,
    is_stored,
    load_hub,
    read_gzip,
    stored_arrays,
)
from condensery_plugins.tasks.tensors import Stored
from condensery_plugins.tasks.text import TextTask
from condensery_plugins.tasks.tokenizers import Encoder, PretrainedEncoder, WordEncoder

HUB = "nyu-mll/glue"
HUB_SPLITS: dict[Split, str] = {"train": "train", "test": "validation"}


class Example(NamedTuple):
    """One row: a sentence, the second one of a pair or ``None``, and its label."""

    first: str
    second: str | None
    label: float


class Glue(TextTask):
    """A task of GLUE. Its ``test`` split is GLUE's *dev* set: GLUE keeps the labels of its test sets to itself.

    Wang, Singh, Michael, Hill, Levy, Bowman: "GLUE: A Multi-Task Benchmark and Analysis Platform for Natural Language
    Understanding", ICLR 2019, arXiv:1804.07461. Local files are ``glue/<TASK>_train.tsv.gz`` and ``_dev.tsv.gz``; their
    content is pinned. On the Hugging Face Hub (``nyu-mll/glue``) the revision is not pinned.

    :param tokenizer: folder or hub id of a pretrained tokenizer, for a net that comes with one. Without it the
        vocabulary is the most frequent lower-case words and punctuation marks of the training sentences, see
        :class:`condensery_plugins.tasks.tokenizers.WordEncoder`.
    :param length: tokens in a row; longer sentences are cut, of a pair the longer one first.
    :param vocabulary: size of the built-in vocabulary.
    :param token_types: whether batches hold ``token_type_ids`` too, as BERT wants them for pairs.
    """

    file: ClassVar[str]
    sha256: ClassVar[Mapping[str, str]]
    """Of the content, by file name."""
    header: ClassVar[bool] = True
    columns: ClassVar[tuple[int, int | None, int]]
    """Of the first sentence, the second one, and the label; negative ones count from the end."""
    hub_columns: ClassVar[tuple[str, str | None]] = ("sentence1", "sentence2")
    words: ClassVar[Mapping[str, int]] = {"0": 0, "1": 1}
    """Labels as they are written."""
    outputs: ClassVar[int] = 2
    metrics: ClassVar[tuple[Metric, ...]] = ACCURACY
    default_model = "transformer"
    base = {
        "epochs": 5,
        "batch_size": 32,
        "optimizer": {"name": "adamw", "lr": 5e-4, "weight_decay": 0.01},
        "schedule": {"name": "linear", "warmup": 0.1},
        "clip_norm": 1.0,
    }

    def __init__(
        self,
        tokenizer: str | None = None,
        length: int = 64,
        vocabulary: int = 5000,
        token_types: bool = False,
    ) -> None:
        super().__init__()
        if length < 8:
            raise UsageError(f"task {self.key}: length must be at least 8, got {length}")
        self.tokenizer, self.length, self.vocabulary = tokenizer, length, vocabulary
        self.extra = ("token_type_ids",) if token_types else ()

    @functools.cached_property
    def encoder(self) -> Encoder:
        """What turns sentences into numbers; a pretrained tokenizer is loaded when it is first asked for."""
        if self.tokenizer is None:
            return WordEncoder(self.vocabulary)
        return PretrainedEncoder(self.tokenizer)

    @functools.cached_property
    def facts(self) -> TaskFacts:  # type: ignore[override]
        """Lazy, because the size of a pretrained vocabulary stands in its files."""
        return TaskFacts("text", outputs=self.outputs, vocabulary=self.encoder.size, length=self.length)

    @property
    def files(self) -> dict[Split, str]:
        """Names of the local files."""
        return {"train": f"{self.file}_train.tsv.gz", "test": f"{self.file}_dev.tsv.gz"}

    def load(self, split: Split) -> Stored:
        """Read and tokenize both splits, once; the vocabulary is made from the training sentences."""
        names = ("input_ids", "attention_mask", *self.extra)
        keys = [f"{s}_{what}" for s in self.files for what in (*names, "labels")]
        identity = fingerprint([self.describe(), sorted(self.sha256.items())])
        name = f"glue-{self.key}-{identity}"
        folder = find_data("glue", list(self.files.values()))
        if folder is not None or is_stored(name, keys):
            arrays = stored_arrays(name, keys, lambda: self._encode(functools.partial(self._read, folder)))
        else:
            arrays = stored_arrays(f"{name}-hub", keys, lambda: self._encode(self._fetch))
        stored = {what: torch.from_numpy(arrays[f"{split}_{what}"]) for what in names}
        return stored, torch.from_numpy(arrays[f"{split}_labels"])

    def _read(self, folder: Path | None, split: Split) -> list[Example]:
        assert folder is not None  # else the arrays are stored already
        path = folder / self.files[split]
        text = read_gzip(path, self.sha256).decode("utf-8-sig")
        lines = [line.removesuffix("\r") for line in text.split("\n") if line]
        return [self._example(path, n, line.split("\t")) for n, line in enumerate(lines, 1) if n > self.header]

    def _example(self, path: Path, number: int, cells: Sequence[str]) -> Example:
        first, second, label = self.columns
        try:
            value = self.words[cells[label]] if self.words else float(cells[label])
            return Example(cells[first], None if second is None else cells[second], value)
        except (IndexError, KeyError, ValueError):
            raise UsageError(f"{path}: line {number} is not a row of {self.file}: {cells!r:.80}") from None

    def _fetch(self, split: Split) -> list[Example]:
        rows = load_hub("glue", list(self.files.values()), HUB, HUB_SPLITS[split], self.key)
        first, second = self.hub_columns
        return [Example(row[first], None if second is None else row[second], row["label"]) for row in rows]

    def _encode(self, read: Callable[[Split], list[Example]]) -> Arrays:
        arrays: dict[str, Any] = {}
        examples = {split: read(split) for split in self.files}
        self.encoder.fit([s for e in examples["train"] for s in (e.first, e.second) if s is not None])
        for split, rows in examples.items():
            encoded = self.encoder.encode([(e.first, e.second) for e in rows], self.length)
            for what in ("input_ids", "attention_mask", *self.extra):
                arrays[f"{split}_{what}"] = encoded[what]
            kind = np.float32 if self.outputs == 1 else np.int64
            arrays[f"{split}_labels"] = np.array([e.label for e in rows], kind)
        return arrays

    def score(self, logits: Tensor, labels: Tensor) -> dict[str, float]:
        """Return accuracy and error in percent, errors as a count, and the mean cross entropy."""
        return accuracy_metrics(logits, labels)

    def describe(self) -> dict[str, Any]:
        """Return key, settings and the identity of the tokenizer."""
        return {
            "key": self.key,
            "length": self.length,
            "token_types": bool(self.extra),
            "tokenizer": self.encoder.identity,
        }


class Sst2(Glue):
    """Is this film review, or this phrase of one, positive? Accuracy.

    Socher et al.: "Recursive Deep Models for Semantic Compositionality Over a Sentiment Treebank", EMNLP 2013.
    """

    key = "sst2"

    key, file = "sst2", "SST-2"
    columns = (0, None, 1)
    hub_columns = ("sentence", None)
    sha256 = {
        "SST-2_train.tsv.gz": "48eac26399f8456935f81dd9e3a745c1430adb6c62e233ccfe22db4a0d15d1d1",
        "SST-2_dev.tsv.gz": "54a9c12c77e402fc14d6a66a506f24d999f596b0176eb777c972cccc2f9cc4b0",
    }


class Cola(Glue):
    """Is this sentence acceptable English? Matthews correlation.

    Warstadt, Singh, Bowman: "Neural Network Acceptability Judgments", TACL 2019.
    """

    key = "cola"

    key, file = "cola", "CoLA"
    header = False
    columns = (3, None, 1)
    hub_columns = ("sentence", None)
    metrics = (Metric("matthews", "correlation", True), *ACCURACY)
    base = {**Glue.base, "epochs": 10}
    sha256 = {
        "CoLA_train.tsv.gz": "cb368ebeb9f27d7ad03720d27ddc95687a311bdb100781a2fe59a5f5b1bc0624",
        "CoLA_dev.tsv.gz": "8c013e21dc39957cac37378d87bebe225b694a0d5fe13eded66c2856628833fd",
    }

    def score(self, logits: Tensor, labels: Tensor) -> dict[str, float]:
        """Return Matthews correlation, -1 to 1, and what all classifications have; 0 where all answers are the same."""
        from torchmetrics.functional.classification import binary_matthews_corrcoef

        return {"matthews": _number(binary_matthews_corrcoef, logits.argmax(1), labels)} | super().score(logits, labels)


class Mrpc(Glue):
    """Do these two sentences say the same? Accuracy and F1.

    Dolan, Brockett: "Automatically Constructing a Corpus of Sentential Paraphrases", IWP 2005. The pinned training file
    has 3,667 pairs, one fewer than GLUE's.
    """

    key = "mrpc"

    key, file = "mrpc", "MRPC"
    columns = (3, 4, 0)
    metrics = (ACCURACY[0], Metric("f1", "%", True), *ACCURACY[1:])
    base = {**Glue.base, "epochs": 10}
    sha256 = {
        "MRPC_train.tsv.gz": "f178bcc72ab4c2c1c778b480912e0c8e1dba3ead150dc1d490d70682ab888c1e",
        "MRPC_dev.tsv.gz": "9e8f284788040f7c9ecde2e1b3c07237c756f926bd9ef8548ef5d34b56f69f17",
    }

    def score(self, logits: Tensor, labels: Tensor) -> dict[str, float]:
        """Return accuracy, F1 of the paraphrases in percent, and what all classifications have."""
        from torchmetrics.functional.classification import binary_f1_score

        return super().score(logits, labels) | {"f1": 100 * _number(binary_f1_score, logits.argmax(1), labels)}


class Rte(Glue):
    """Does the second sentence follow from the first? Accuracy; class 0 is entailment.

    Joined from the RTE challenges 1, 2, 3 and 5: Dagan, Glickman, Magnini: "The PASCAL Recognising Textual Entailment
    Challenge", 2006, and its successors.
    """

    key = "rte"

    key, file = "rte", "RTE"
    columns = (1, 2, 3)
    words = {"entailment": 0, "not_entailment": 1}
    base = {**Glue.base, "epochs": 10}
    sha256 = {
        "RTE_train.tsv.gz": "41e3a9b063433392343fad9e962cf2f58b681c78d8f71592f4186f0837246c5c",
        "RTE_dev.tsv.gz": "80230dfa1347282e7b532b06a1004a76a710087541189bf874223ddf0e3819fb",
    }


class Stsb(Glue):
    """How alike are these two sentences, 0 to 5? A regression: one output, mean squared error; two correlations.

    Cer, Diab, Agirre, Lopez-Gazpio, Specia: "SemEval-2017 Task 1: Semantic Textual Similarity", SemEval 2017.
    """

    key = "stsb"

    key, file = "stsb", "STS-B"
    columns = (-3, -2, -1)
    words = {}
    outputs = 1
    metrics = (
        Metric("pearson", "correlation", True),
        Metric("spearman", "correlation", True),
        Metric("loss", "squared score", False),
    )
    base = {**Glue.base, "epochs": 10}
    sha256 = {
        "STS-B_train.tsv.gz": "41c4d978b6162abdcada7e49a982211954cca5459c228db478af333124b257a2",
        "STS-B_dev.tsv.gz": "fe7dc0632a5033562f3cadff991f6e8d9b9b6311861660e78c3c82eb7db67f59",
    }

    def loss(self, logits: Tensor, labels: Tensor | None) -> Tensor | None:
        """Return the mean squared error over the batch, or ``None`` without labels."""
        return None if labels is None else nn.functional.mse_loss(logits.squeeze(1), labels)

    def score(self, logits: Tensor, labels: Tensor) -> dict[str, float]:
        """Return Pearson's and Spearman's correlation (0 for a constant answer) and the mean squared error."""
        from torchmetrics.functional.regression import pearson_corrcoef, spearman_corrcoef

        answers = logits.squeeze(1).double()
        return {
            "pearson": _number(pearson_corrcoef, answers, labels.double()),
            "spearman": _number(spearman_corrcoef, answers, labels.double()),
            "loss": float(nn.functional.mse_loss(answers, labels.double())),
        }


def _number(metric: Callable[..., Tensor], answers: Tensor, labels: Tensor) -> float:
    """Return a metric as a number; where a constant answer leaves it undefined, 0, as scikit-learn has it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torchmetrics warns where the variance is close to zero
        value = float(metric(answers, labels))
    return 0.0 if math.isnan(value) else value
