"""Which language is this word from? A real text task for a fresh machine."""

from __future__ import annotations

import importlib.metadata
import importlib.resources
import json
from typing import Any

import numpy as np
import torch

from condensery import UsageError
from condensery.files import inflate, size_limit
from condensery.tasks import Arrays, Split, TaskFacts, stored_arrays
from condensery_plugins.tasks.tensors import Stored
from condensery_plugins.tasks.text import SPECIAL, START, UNKNOWN, TextTask, padded

LANGUAGES = ("de", "en", "es", "eu", "fr", "it", "lv", "nl", "pt", "ru")
LETTERS = "abcdefghijklmnopqrstuvwxyz" + "ßàáâãäçèéêëìíîïñòóôõöùúûüāčēģīķļņšūž" + "абвгдежзийклмнопрстуфхцчшщъыьэюяё"
"""What a word may be spelt with; words with other characters are left out."""
PER_LANGUAGE: dict[Split, int] = {"train": 1000, "test": 200}
SHORTEST = 2


class WordLanguage(TextTask):
    """The ten languages of frequent words, from their letters: 10,000 words to train on, 2,000 to test on.

    The words are those that ship with pyspellchecker (frequency lists, mostly of film subtitles). Of its twelve
    languages the nine in Latin letters are hard to tell apart, which is the point; Russian is the tenth, and easy;
    Arabic and Persian are left out, because their letters would give them away as well. A language's words are its
    1,200 most frequent ones that no other of the ten lists holds; every sixth of them, by frequency, is tested on.

    :param length: of the rows: a start token and up to ``length - 1`` letters; longer words are left out.
    """

    key = "word-language"
    sizes = {split: words * len(LANGUAGES) for split, words in PER_LANGUAGE.items()}
    default_model = "transformer"
    base = {
        "epochs": 12,
        "batch_size": 64,
        "optimizer": {"name": "adamw", "lr": 2e-3, "weight_decay": 0.01},
        "schedule": {"name": "cosine", "warmup": 0.1},
        "clip_norm": 1.0,
    }

    def __init__(self, length: int = 16) -> None:
        super().__init__()
        if not 8 <= length <= 32:
            raise UsageError(f"task {self.key}: length must be 8 to 32, got {length}")
        self.facts = TaskFacts("text", outputs=len(LANGUAGES), vocabulary=SPECIAL + len(LETTERS), length=length)

    def load(self, split: Split) -> Stored:
        """Take the words from pyspellchecker's lists; the choice is kept in the cache."""
        version = importlib.metadata.version("pyspellchecker")
        keys = [f"{s}_{what}" for s in PER_LANGUAGE for what in ("input_ids", "attention_mask", "labels")]
        name = f"word-language-v1-{self.facts.length}-pyspellchecker-{version}"
        arrays = stored_arrays(name, keys, self._encode)
        ids, mask, labels = (torch.from_numpy(arrays[k]) for k in keys if k.startswith(split))
        return {"input_ids": ids, "attention_mask": mask}, labels

    def _encode(self) -> Arrays:
        """Return the arrays of both splits, by split and what they are."""
        words = choose_words(self.facts.length - 1)
        arrays: dict[str, Any] = {}
        for split in PER_LANGUAGE:
            chosen = [
                (word, label)
                for label, language in enumerate(LANGUAGES)
                for rank, word in enumerate(words[language])
                if (rank % 6 == 5) == (split == "test")
            ]

            for what, array in padded([spell(word) for word, _ in chosen], self.facts.length).items():
                arrays[f"{split}_{what}"] = array
            arrays[f"{split}_labels"] = np.array([label for _, label in chosen], np.int64)
        return arrays

    def describe(self) -> dict[str, Any]:
        """Return key, length and where the words are from."""
        version = importlib.metadata.version("pyspellchecker")
        return {"key": self.key, "length": self.facts.length, "pyspellchecker": version}


def spell(word: str) -> list[int]:
    """Return a word's token numbers: the start token, then one for each letter."""
    return [START, *(SPECIAL + i if (i := LETTERS.find(letter)) >= 0 else UNKNOWN for letter in word)]


def choose_words(longest: int) -> dict[str, list[str]]:
    """Return each language's most frequent words that no other of the languages has, by frequency, ties by spelling.

    :param longest: letters that a word may have.
    :raises UsageError: if a list that should ship with pyspellchecker is missing, or too short.
    """
    counts = _frequencies()
    letters, wanted = set(LETTERS), sum(PER_LANGUAGE.values())
    chosen: dict[str, list[str]] = {}
    for language, known in counts.items():
        # The first 20,000 are more than enough, and quicker to order than all 400,000.
        floor = sorted(known.values(), reverse=True)[:20_000][-1]
        frequent = sorted((w for w, n in known.items() if n >= floor), key=lambda word: (-known[word], word))
        fitting = (w for w in frequent if SHORTEST <= len(w) <= longest and letters.issuperset(w))

        others = [c for other, c in counts.items() if other != language]
        chosen[language] = [w for w in fitting if not any(w in other for other in others)][:wanted]
        if len(chosen[language]) < wanted:
            found = f"only {len(chosen[language])} of {wanted} words"
            raise UsageError(f"task {WordLanguage.key}: {found} for {language!r} of that length")
    return chosen


def _frequencies() -> dict[str, dict[str, int]]:
    """Return how often each word of each language occurs, as pyspellchecker has counted them."""
    folder = importlib.resources.files("spellchecker") / "resources"
    counts = {}
    for language in LANGUAGES:
        file = folder / f"{language}.json.gz"
        if not file.is_file():
            missing = f"pyspellchecker has no list {file.name}; install another version"
            raise UsageError(f"task {WordLanguage.key}: {missing}")
        counts[language] = json.loads(inflate(file.read_bytes(), size_limit() // 4))
    return counts
