"""The schema of a card: what it takes, and that each refusal is one line naming file, field and the right thing."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from condensery import UsageError
from condensery.contract import Card, load_cards

CLAIM: dict[str, Any] = {
    "id": "net-error",
    "kind": "quality",
    "metric": "error",
    "unit": "%",
    "model": "LeNet-5",
    "dataset": "MNIST",
    "baseline": {"value": 0.8, "source": "recalled"},
    "value": {"value": 0.74, "source": "read", "where": "Table 1"},
}
CARD: dict[str, Any] = {
    "key": "sum-pruning",
    "ref": 14,
    "name": "Pruning by sums",
    "summary": "Filters with the smallest sum of weights go.",
    "paper": {"title": "Sums", "authors": "A, B", "year": 2017, "venue": "ICLR 2017", "arxiv": "1608.08710"},
    "family": "pruning",
    "taxonomy": {"granularity": ["filter"], "criterion": "sum", "scope": ["local"], "schedule": ["one-shot"]},
    "network": ["CNN"],
    "domain": ["classification"],
    "hyperparameters": {"ratio": {"type": "float", "default": 0.5, "ge": 0, "lt": 1, "meaning": "share removed"}},
    "claims": [CLAIM],
}


def write(folder: Path, path: str = "", value: Any = None, name: str = "sum-pruning") -> Path:
    """Write the card above with one place changed, ``claims.0.unit``; a value of ``...`` removes it."""
    card: Any = copy.deepcopy(CARD)
    if path:
        *parents, last = path.split(".")
        node = card
        for part in parents:
            node = node[int(part) if part.isdigit() else part]
        if value is ...:
            del node[last]
        else:
            node[last] = value
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(card), encoding="utf-8")
    return file


def test_a_card_keeps_what_it_was_given(tmp_path: Path) -> None:
    write(tmp_path)
    card = load_cards(tmp_path)["sum-pruning"]
    assert card.model_dump(mode="json", exclude_unset=True) == CARD


def test_whole_numbers_stay_whole(tmp_path: Path) -> None:
    write(tmp_path, "claims.0.value", {"value": 40, "source": "read", "where": "Table 1"})
    value = load_cards(tmp_path)["sum-pruning"].claims[0].value.value
    assert (value, type(value)) == (40, int)


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("sumary", "x", "unknown field 'sumary'; did you mean 'summary'"),
        ("summary", ..., "summary: Field required"),
        ("family", "prunning", "family: unknown word 'prunning'; did you mean 'pruning'"),
        ("taxonomy.granularity", ["filtr"], "taxonomy.granularity: unknown word 'filtr'; did you mean 'filter'"),
        ("network", ["VITT"], "network: unknown word 'VITT'; did you mean 'ViT'"),
        ("domain", ["classifcation"], "domain: unknown word 'classifcation'; did you mean 'classification'"),
        ("claims.0.kind", "size of file", "claims.0.kind: unknown word"),
        ("claims.0.value.source", "recaled", "claims.0.value.source: unknown word 'recaled'; did you mean 'recalled'"),
        ("claims.0.value.source", ..., "claims.0.value.source: Field required"),
        ("claims.0.value.where", ..., "claims.0: value: say where it was read"),
        ("claims.0.value.value", True, "claims.0.value.value: write a statement as a text in quotes"),
        ("claims.0.value.value", float("nan"), "claims.0.value.value"),
        ("claims", [CLAIM, CLAIM], "two claims have the id 'net-error'"),
        ("taxonomy.bits", "mixed", "taxonomy.bits: not for pruning, which has criterion, granularity"),
        ("taxonomy.combination", "KD+P", "taxonomy.combination: not for pruning, which has criterion"),
        ("hyperparameters.ratio.default", 1, "hyperparameters.ratio: default must be .* < 1, got 1"),
        ("hyperparameters.ratio.default", "half", "hyperparameters.ratio: default must be a number, got 'half'"),
        ("hyperparameters.ratio.type", "flot", "hyperparameters.ratio.type: unknown word 'flot'; did you mean 'float'"),
        ("paper.arxiv", "arXiv:1608.08710", "paper.arxiv"),
        ("paper.year", 17, "paper.year"),
        ("ref", 0, "ref"),
    ],
)
def test_what_is_wrong_is_named_in_one_line(path: str, value: Any, says: str, tmp_path: Path) -> None:
    file = write(tmp_path, path, value)
    with pytest.raises(UsageError, match=says) as caught:
        load_cards(tmp_path)
    text = str(caught.value)
    assert text.startswith(str(file))
    assert "\n" not in text


@pytest.mark.parametrize(
    ("combination", "word", "allowed"),
    [
        ("KD+P", {"knowledge": ["output"]}, True),
        ("KD+P", {"bits": "mixed"}, False),
        ("P+Q", {"bits": "mixed"}, True),
        ("P+Q", {"scheme": "online"}, False),
        ("P+Q+NAS", {"coupling": "searched"}, True),
        ("KD+P+Q", {"scheme": "self", "bits": "8", "granularity": ["head"]}, True),
    ],
)
def test_a_joint_card_has_the_words_of_its_parts(combination: str, word: dict[str, Any], allowed: bool) -> None:
    data = CARD | {"family": "joint", "taxonomy": {"combination": combination, "order": "one, then the other"} | word}
    if allowed:
        assert Card.model_validate(data).taxonomy.combination == combination
        return
    with pytest.raises(ValueError, match=f"taxonomy.{next(iter(word))}: not for {combination}".replace("+", r"\+")):
        Card.model_validate(data)


def test_a_joint_card_says_its_combination() -> None:
    with pytest.raises(ValueError, match="a joint card says its combination"):
        Card.model_validate(CARD | {"family": "joint"})


def test_the_file_is_named_after_the_key(tmp_path: Path) -> None:
    write(tmp_path, name="another")
    with pytest.raises(UsageError, match=r"another\.yaml: the file must be named after its key, 'sum-pruning'"):
        load_cards(tmp_path)


def test_broken_yaml_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "broken.yaml").write_text("key: broken\nname: [1, 2\n", encoding="utf-8")
    with pytest.raises(UsageError, match=r"broken\.yaml: line 3: not YAML"):
        load_cards(tmp_path)


@pytest.mark.parametrize("text", ["", "- 1\n", "only text\n"])
def test_a_card_is_a_mapping(text: str, tmp_path: Path) -> None:
    (tmp_path / "odd.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=r"odd\.yaml: a card is a mapping"):
        load_cards(tmp_path)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such folder of cards"):
        load_cards(tmp_path / "cards")
