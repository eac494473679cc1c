from __future__ import annotations

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from spellchecker import SpellChecker

from condensery.errors import UsageError
from condensery.tasks import Split
from condensery_plugins.tasks import word_language
from condensery_plugins.tasks.text import SPECIAL, START
from condensery_plugins.tasks.word_language import LANGUAGES, LETTERS, WordLanguage, spell


def words(task: WordLanguage, split: Split) -> list[tuple[str, int]]:
    """Spell the words back."""
    inputs, labels = task.split(split)
    found = []
    for row, mask, label in zip(inputs["input_ids"], inputs["attention_mask"], labels, strict=True):
        tokens = row[mask].tolist()
        assert tokens[0] == START
        assert not row[~mask].any()
        found.append(("".join(LETTERS[t - SPECIAL] for t in tokens[1:]), int(label)))
    return found


def test_ten_languages_evenly() -> None:
    task = WordLanguage()
    assert (task.count("train"), task.count("test"), task.facts.outputs) == (10_000, 2_000, 10)
    assert task.split("train")[1].bincount().tolist() == [1000] * 10
    assert task.split("test")[1].bincount().tolist() == [200] * 10


def test_no_word_is_there_twice_and_each_is_in_its_own_list_only() -> None:
    task = WordLanguage()
    both = words(task, "train") + words(task, "test")
    assert len({word for word, _ in both}) == 12_000
    known = [SpellChecker(language=code).word_frequency for code in ("es", "pt")]
    for word, label in both:
        if LANGUAGES[label] in ("es", "pt"):
            assert [word in k for k in known] == [LANGUAGES[label] == "es", LANGUAGES[label] == "pt"]


def test_frequent_words_are_there_and_shared_ones_are_not() -> None:
    both = dict(words(WordLanguage(), "train") + words(WordLanguage(), "test"))
    for word, code in {"haben": "de", "thought": "en", "entonces": "es", "não": "pt", "het": "nl", "что": "ru"}.items():
        assert LANGUAGES[both[word]] == code
    assert not {"no", "me", "la", "de"} & set(both)


def test_spelling() -> None:
    assert spell("abä") == [START, SPECIAL, SPECIAL + 1, SPECIAL + LETTERS.index("ä")]
    assert spell("q_") == [START, SPECIAL + 16, 1]
    assert len(set(LETTERS)) == len(LETTERS)


def test_batches_and_example_have_the_declared_shape() -> None:
    task = WordLanguage()
    batch = next(task.batches("train", batch_size=7, seed=1, train=True))
    example = task.example(7)
    for name in ("input_ids", "attention_mask"):
        assert batch.inputs[name].shape == example[name].shape == (7, 16)
        assert batch.inputs[name].dtype == example[name].dtype == torch.int64
    assert int(batch.inputs["input_ids"].max()) < task.facts.vocabulary
    assert int(task.split("train")[0]["input_ids"].max()) == task.facts.vocabulary - 1


def test_the_words_are_chosen_once(monkeypatch: pytest.MonkeyPatch) -> None:
    first = WordLanguage().split("test")[0]["input_ids"]

    def never(longest: int) -> dict[str, list[str]]:
        raise AssertionError("chosen again")

    monkeypatch.setattr(word_language, "choose_words", never)
    assert torch.equal(first, WordLanguage().split("test")[0]["input_ids"])


def test_the_letters_say_something_about_the_language() -> None:
    task = WordLanguage()
    counts = []
    splits: tuple[Split, ...] = ("train", "test")
    for split in splits:
        inputs, labels = task.split(split)
        letters = torch.zeros(len(labels), task.facts.vocabulary)
        letters.scatter_add_(1, inputs["input_ids"].long(), inputs["attention_mask"].float())
        counts.append((letters.numpy(), labels.numpy()))
    accuracy = LogisticRegression(max_iter=60, tol=1e-2).fit(*counts[0]).score(*counts[1])
    assert 0.5 < accuracy < 0.8, "letters without their order should help, but not settle it"


def test_a_length_out_of_range_is_refused() -> None:
    with pytest.raises(UsageError, match="length must be 8 to 32, got 4"):
        WordLanguage(length=4)
