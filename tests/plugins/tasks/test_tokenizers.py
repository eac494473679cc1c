from __future__ import annotations

import contextlib
import json
from pathlib import Path

import numpy as np
import pytest
from transformers import BertTokenizer

from condensery.errors import UsageError
from condensery_plugins.tasks.text import SEPARATOR, SPECIAL, START, UNKNOWN
from condensery_plugins.tasks.tokenizers import PretrainedEncoder, WordEncoder, split_words

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "##s", "sat", "mat"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS))
    BertTokenizer(vocab=str(tmp_path / "vocab.txt")).save_pretrained(tmp_path / "tokenizer")
    return tmp_path / "tokenizer"


def test_words_and_marks_are_split() -> None:
    assert split_words("Don't stop, 1.5 Äpfel!") == ["don", "'", "t", "stop", ",", "1", ".", "5", "äpfel", "!"]


def test_frequent_words_come_first_and_ties_in_order_of_spelling() -> None:
    encoder = WordEncoder(SPECIAL + 3)
    encoder.fit(["b a c", "c b", "c d"])
    assert encoder.numbers == {"c": SPECIAL, "b": SPECIAL + 1, "a": SPECIAL + 2}


def test_rows_of_sentences_and_pairs() -> None:
    encoder = WordEncoder(SPECIAL + 3)
    encoder.fit(["b a c", "c b", "c d"])
    a, b, c = SPECIAL + 2, SPECIAL + 1, SPECIAL
    made = encoder.encode([("A b d", None), ("c", "b b")], 6)
    assert made["input_ids"].tolist() == [[START, a, b, UNKNOWN, 0, 0], [START, c, SEPARATOR, b, b, 0]]
    assert made["attention_mask"].tolist() == [[True] * 4 + [False] * 2, [True] * 5 + [False]]
    assert made["token_type_ids"].astype(int).tolist() == [[0] * 6, [0, 0, 0, 1, 1, 0]]


@pytest.mark.parametrize(("first", "second", "kept"), [(9, 1, (5, 1)), (1, 9, (1, 5)), (9, 9, (3, 3)), (2, 3, (2, 3))])
def test_of_a_pair_the_longer_one_is_cut(first: int, second: int, kept: tuple[int, int]) -> None:
    encoder = WordEncoder(SPECIAL + 2)
    encoder.fit(["x x y"])
    (row,) = encoder.encode([("x " * first, "y " * second)], 8)["input_ids"].tolist()
    assert (row.count(SPECIAL), row.count(SPECIAL + 1)) == kept


def test_a_vocabulary_without_words_is_refused() -> None:
    with pytest.raises(UsageError, match="more than 4 tokens, got 3"):
        WordEncoder(3)


def test_a_pretrained_tokenizer(folder: Path) -> None:
    encoder = PretrainedEncoder(str(folder))
    assert encoder.size == len(WORDS)
    made = encoder.encode([("The cats", "sat zzz"), ("mat", "the")], 9)
    assert made["input_ids"].tolist() == [[2, 5, 6, 7, 3, 8, 1, 3, 0], [2, 9, 3, 5, 3, 0, 0, 0, 0]]
    assert made["attention_mask"].astype(int).sum(1).tolist() == [8, 5]
    assert made["token_type_ids"].astype(int).tolist() == [[0, 0, 0, 0, 0, 1, 1, 1, 0], [0, 0, 0, 1, 1, 0, 0, 0, 0]]
    assert {array.dtype for array in made.values()} == {np.dtype(np.int32), np.dtype(bool)}
    single = encoder.encode([("the", None)], 4)
    assert single["input_ids"].tolist() == [[2, 5, 3, 0]]


def test_identity_is_of_the_content_not_the_place(folder: Path, tmp_path: Path) -> None:
    folder.rename(tmp_path / "moved")
    first = PretrainedEncoder(str(tmp_path / "moved"))
    (tmp_path / "other.txt").write_text("\n".join([*WORDS, "dog"]))
    BertTokenizer(vocab=str(tmp_path / "other.txt")).save_pretrained(folder)
    assert first.identity == PretrainedEncoder(str(tmp_path / "moved")).identity
    assert first.identity != PretrainedEncoder(str(folder)).identity


def test_places_without_a_tokenizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.delenv("NOT_SET", raising=False)
    wrong = {
        "/no/such/folder": "no such folder: /no/such/folder",
        "$NOT_SET/x": "no such folder",
        "someone/something": "Hub can't be reached",
        str(tmp_path): "can't be loaded",
    }
    for source, words in wrong.items():
        with pytest.raises(UsageError, match=words):
            PretrainedEncoder(source)


def test_code_in_a_tokenizers_folder_is_never_run(folder: Path) -> None:
    (folder / "evil.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\nclass Mine: pass\n")
    file = folder / "tokenizer_config.json"
    said = json.loads(file.read_text())
    for change in ({}, {"tokenizer_class": "Mine"}):
        auto = {"auto_map": {"AutoTokenizer": ["evil.Mine", None]}, "trust_remote_code": True}
        file.write_text(json.dumps({**said, **auto, **change}))
        with contextlib.suppress(UsageError):
            assert PretrainedEncoder(str(folder)).size > 0
        assert not (folder / "ran").exists()
