"""Which of ten languages is this word from: a text task that is embedded in a package."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from condensery.errors import UsageError
from condensery.tasks import ACCURACY, Batch, Split, Subset, Task, TaskFacts, accuracy_metrics

PAD, UNKNOWN, START = 0, 1, 2


class TextTask(Task):
    """Token ids in memory; no augmentation."""

    metrics = ACCURACY
    _data: dict[str, tuple[Tensor, Tensor]] | None = None

    def load(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Return token ids ``(N, length)``, padded with 0, and labels, by split."""
        raise NotImplementedError

    def arrays(self, split: Split) -> tuple[Tensor, Tensor]:
        """Return a split's token ids and labels, read when first asked for."""
        if self._data is None:
            self._data = self.load()
        return self._data[split]

    def count(self, split: Split, subset: Subset | None = None) -> int:
        """Return the number of examples in a split."""
        labels = self.arrays(split)[1]
        return len(labels if subset is None else subset.pick(labels))

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
        """Yield one epoch of batches; each is cut to its longest text."""
        ids, labels = self.arrays(split)
        index = torch.arange(len(labels)) if subset is None else subset.pick(labels)
        if train:
            index = index[torch.randperm(len(index), generator=torch.Generator().manual_seed(seed))]
        for part in index.split(batch_size):
            tokens = ids[part]
            tokens = tokens[:, : max(1, int((tokens != PAD).sum(1).max()))].to(device)
            mask = (tokens != PAD).long()
            yield Batch({"input_ids": tokens, "attention_mask": mask}, labels[part].to(device))

    def example_input(self, batch_size: int = 2) -> dict[str, Tensor]:
        """Return random tokens of full length, always the same."""
        shape = (batch_size, self.facts.length)
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(START, self.facts.vocabulary, shape, generator=generator)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    def score(self, logits: Tensor, labels: Tensor) -> dict[str, float]:
        """Return accuracy, error, wrong answers and loss."""
        return accuracy_metrics(logits, labels)


LANGUAGES = ("en", "es", "fr", "pt", "de", "it", "nl", "ru", "lv", "eu")


class WordLanguage(TextTask):
    """Tell a word's language from its letters: ten languages, 1,000 words each to train, 200 to test.

    The words are the most frequent ones of four letters or more in pyspellchecker's dictionaries that are in one of the
    ten languages only; every sixth is a test word. Tokens are characters.
    """

    key = "word-language"
    default_model = "transformer"
    letters: ClassVar[str] = (
        "abcdefghijklmnopqrstuvwxyzàáâãäåæçèéêëìíîïñòóôõöøùúûüýßœāēīūčģķļņšžабвгдежзийклмнопрстуфхцчшщъыьэюяё'-"
    )
    facts = TaskFacts("text", outputs=10, vocabulary=START + 1 + len(letters), length=14)
    base: ClassVar[Mapping[str, Any]] = {
        "epochs": 6,
        "batch_size": 64,
        "optimizer": {"name": "adamw", "lr": 2e-3, "weight_decay": 0.01},
        "schedule": {"name": "cosine", "warmup": 0.1},
    }

    def load(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Read the dictionaries."""
        import spellchecker

        folder = Path(spellchecker.__file__).parent / "resources"
        ranked = {}
        for language in LANGUAGES:
            try:
                counted = json.loads(gzip.decompress((folder / f"{language}.json.gz").read_bytes()))
            except (OSError, ValueError) as error:
                raise UsageError(
                    f"word-language: pyspellchecker has no readable {language!r} dictionary: {error}"
                ) from None
            words = [w for w in counted if 4 <= len(w) <= 13 and set(w) <= set(self.letters)]
            ranked[language] = sorted(words, key=lambda w: (-counted[w], w))[:20000]
        shared = {w for w, n in Counter(w for words in ranked.values() for w in words).items() if n > 1}
        rows: dict[str, list[tuple[str, int]]] = {"train": [], "test": []}
        for label, language in enumerate(LANGUAGES):
            chosen = [w for w in ranked[language] if w not in shared][:1200]
            if len(chosen) < 1200:
                raise UsageError(f"word-language: only {len(chosen)} words in {language!r}")
            for number, word in enumerate(chosen):
                rows["test" if number % 6 == 5 else "train"].append((word, label))
        return {split: self._encode(pairs) for split, pairs in rows.items()}

    def _encode(self, pairs: list[tuple[str, int]]) -> tuple[Tensor, Tensor]:
        code = {c: START + 1 + i for i, c in enumerate(self.letters)}
        ids = torch.full((len(pairs), self.facts.length), PAD)
        for row, (word, _) in enumerate(pairs):
            tokens = [START, *[code[c] for c in word]]
            ids[row, : len(tokens)] = torch.tensor(tokens)
        return ids, torch.tensor([label for _, label in pairs])
