"""Sentences to token numbers: a vocabulary built from the training text, or a pretrained tokenizer."""

from __future__ import annotations

import functools
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from condensery import UsageError
from condensery.recipe import fingerprint
from condensery.tasks import Arrays
from condensery_plugins.hub import find_source, one_line
from condensery_plugins.tasks.text import SEPARATOR, SPECIAL, START, UNKNOWN, padded

Sentences = tuple[str, str | None]
TOKEN = re.compile(r"\w+|[^\w\s]")


class Encoder(ABC):
    """Turns sentences and pairs of sentences into rows of token numbers."""

    size: int
    """Token numbers are below this."""
    identity: str
    """What tells its rows from those of another one, for cache keys."""

    @abstractmethod
    def fit(self, sentences: Sequence[str]) -> None:
        """Build the vocabulary from the training sentences, if it has none yet."""

    @abstractmethod
    def encode(self, rows: Sequence[Sentences], length: int) -> Arrays:
        """Return ``input_ids``, ``attention_mask`` and ``token_type_ids``, each ``(rows, length)``."""


class WordEncoder(Encoder):
    """The most frequent lower-case words and punctuation marks of the training text, ties by spelling.

    Words rather than bytes: at 64 tokens a row, bytes would hold the first dozen words only. No hashing, so that a
    number always means one word, and the same text gives the same numbers everywhere.

    :param size: of the vocabulary, special tokens included. Rarer words become the unknown token.
    """

    def __init__(self, size: int) -> None:
        if size <= SPECIAL:
            raise UsageError(f"vocabulary must be more than {SPECIAL} tokens, got {size}")
        self.size, self.identity = size, f"words-v1-{size}"
        self.numbers: dict[str, int] = {}

    def fit(self, sentences: Sequence[str]) -> None:
        """Count the words."""
        counts = Counter(word for sentence in sentences for word in split_words(sentence))
        frequent = sorted(counts, key=lambda word: (-counts[word], word))[: self.size - SPECIAL]
        self.numbers = {word: SPECIAL + i for i, word in enumerate(frequent)}

    def encode(self, rows: Sequence[Sentences], length: int) -> Arrays:
        """Return rows of a start token, the first sentence, and for a pair a separator and the second one."""
        numbered, ends = [], []  # of the first sentence, its separator included
        for first, second in rows:
            a = self._numbered(first)
            if second is None:
                numbered.append([START, *a])
                ends.append(length)
            else:
                a, b = _cut_pair(a, self._numbered(second), length - 2)
                numbered.append([START, *a, SEPARATOR, *b])
                ends.append(len(a) + 2)

        arrays = padded(numbered, length)
        behind = np.arange(length) >= np.array(ends)[:, None]
        return {**arrays, "token_type_ids": behind & arrays["attention_mask"]}

    def _numbered(self, sentence: str) -> list[int]:
        """Return the number of each word."""
        return [self.numbers.get(word, UNKNOWN) for word in split_words(sentence)]


def split_words(sentence: str) -> list[str]:
    """Return the lower-case words and punctuation marks of a sentence."""
    return TOKEN.findall(sentence.lower())


def _cut_pair(a: list[int], b: list[int], budget: int) -> tuple[list[int], list[int]]:
    """Cut two rows to ``budget`` tokens together, the longer one first."""
    # The first keeps what the second leaves; where both are long, half of the tokens.
    a = a[: max(budget - len(b), budget - budget // 2)]
    return a, b[: budget - len(a)]


class PretrainedEncoder(Encoder):
    """A tokenizer of transformers, from a folder or the Hugging Face Hub.

    :param source: path (environment variables are expanded) or hub id; its revision is not pinned.
    :raises UsageError: if there is no such tokenizer, or the hub can't be reached.
    """

    def __init__(self, source: str) -> None:
        from transformers import AutoTokenizer

        place, is_folder = find_source(source, f"tokenizer {source}")
        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(
                place, local_files_only=is_folder, trust_remote_code=False
            )
        except (OSError, ValueError, KeyError) as error:
            raise UsageError(f"tokenizer {source}: can't be loaded: {one_line(error)}") from None
        self.size = len(self.tokenizer)

    @functools.cached_property
    def identity(self) -> str:  # type: ignore[override]
        """A hash of the tokenizer itself, not of the place it was loaded from."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        content = backend.to_str() if backend is not None else sorted(self.tokenizer.get_vocab().items())
        return f"{type(self.tokenizer).__name__}-{fingerprint(content)}"

    def fit(self, sentences: Sequence[str]) -> None:
        """Do nothing: the vocabulary is given."""

    def encode(self, rows: Sequence[Sentences], length: int) -> Arrays:
        """Return rows as the tokenizer makes them, pairs cut longest first."""
        firsts, seconds = [a for a, _ in rows], [b for _, b in rows]
        pairs = None if seconds[0] is None else seconds
        if self.tokenizer.pad_token is None:  # GPT-2 has none; the mask hides what is filled
            self.tokenizer.pad_token = self.tokenizer.eos_token

        made = self.tokenizer(
            firsts,
            pairs,
            padding="max_length",
            truncation=True,
            max_length=length,
            return_token_type_ids=True,
            return_tensors="np",
        )
        return {
            "input_ids": made["input_ids"].astype(np.int32),
            "attention_mask": made["attention_mask"].astype(bool),
            "token_type_ids": made["token_type_ids"].astype(bool),
        }
