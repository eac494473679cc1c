"""The schema of a card: what it takes, and that each refusal is one line naming file, field and the right thing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.core.contract.toys import CARD, CLAIM, changed

from condensery import UsageError
from condensery.contract import Card
from condensery.contract.cards import card_data, checked_card, read_card

RATIO = {"type": "float", "default": None, "meaning": "share removed"}
PLACE = "/home/somebody/project/.venv/lib/python3.11/site-packages/package/method.yaml"


def test_a_card_keeps_what_it_was_given(tmp_path: Path) -> None:
    file = tmp_path / "sum_pruning.yaml"
    file.write_text(yaml.safe_dump(CARD), encoding="utf-8")
    assert read_card(file).model_dump(mode="json", exclude_unset=True) == CARD


def test_a_loss_that_came_out_better_is_one_where_the_paper_says_so() -> None:
    sentence = {"says": "loss", "note": "no accuracy is lost"}
    card = checked_card(changed("claims", [CLAIM | {"better": "lower"} | sentence]), "here")
    assert card.claims[0].says == "loss"
    worse = checked_card(changed("claims", [CLAIM | {"says": "loss"}]), "here")
    assert worse.claims[0].note == ""


def test_whole_numbers_stay_whole() -> None:
    card = checked_card(changed("claims.0.value", {"value": 40, "source": "read", "where": "Table 1"}), "here")
    value = card.claims[0].value.value
    assert (value, type(value)) == (40, int)


def test_plain_data_names_the_methods_of_a_composition() -> None:
    data = card_data(checked_card(CARD | {"composition": "(b + a) * 3 -> b(x=1)"}, "here"))
    assert data["composed_of"] == ["a", "b"]
    assert "composed_of" not in card_data(checked_card(CARD, "here"))


def test_plain_data_keeps_a_default_of_null_and_drops_what_is_not_there() -> None:
    data = card_data(checked_card(changed("hyperparameters.ratio.default", None) | {"class": "Sums"}, "here"))
    assert data["hyperparameters"]["ratio"] == RATIO | {"ge": 0, "lt": 1}
    assert data["class"] == "Sums"
    assert "doi" not in data["paper"]


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("sumary", "x", "unknown field 'sumary'; did you mean 'summary'"),
        ("clas", "Sums", "unknown field 'clas'; did you mean 'class'"),
        ("summary", ..., "summary: missing"),
        ("key", "Sum Pruning", "key: must match pattern"),
        ("family", "prunning", "family: unknown word 'prunning'; did you mean 'pruning'"),
        ("family", "hashing", "family: unknown word 'hashing'; known: architecture, distillation, joint, pruning"),
        ("taxonomy.granularity", ["filtr"], "taxonomy.granularity: unknown word 'filtr'; did you mean 'filter'"),
        ("taxonomy.granularity", "filter", "taxonomy.granularity: must be a list"),
        ("network", ["VITT"], "network: unknown word 'VITT'; did you mean 'ViT'"),
        ("network", [["CNN"]], r"network.0: must be 'CNN', .*, got \['CNN'\]"),
        ("network", [{"CNN": 1}], r"network.0: must be 'CNN', .*, got {'CNN': 1}"),
        ("network", {"CNN": 1}, "network: must be a list"),
        ("claims.0.says", "gian", "claims.0.says: unknown word 'gian'; did you mean 'gain'"),
        ("claims.0.at", "speed", "claim 'net-error': at: unknown quality claim 'speed'"),
        ("claims.0.row", ..., "claims.0: value: a figure that was read needs its row and protocol"),
        ("claims.0.protocol", "", "claims.0: value: a figure that was read needs its row and protocol"),
        ("claims", [CLAIM | {"better": "lower", "says": "loss"}], "claims.0: it says loss of a figure that came out"),
        ("claims.0.lacks", "ImageNet", "claims.0.lacks: must match pattern"),
        ("claims.0.value", {"value": 2, "source": "second-hand"}, "value: say which text gives it"),
        ("domain", ["classifcation"], "domain: unknown word 'classifcation'; did you mean 'classification'"),
        ("domain", ["x" * 500], "domain: unknown word 'xxx"),
        ("class", "sums:Sums", "class: must match pattern"),
        ("layers", {"toy": "a.b:Sums"}, "layers.toy: must match pattern"),
        ("claims.0.kind", "size of file", "claims.0.kind: unknown word"),
        ("claims.0.value.source", "recaled", "claims.0.value.source: unknown word 'recaled'; did you mean 'recalled'"),
        ("claims.0.value.source", ..., "claims.0.value.source: missing"),
        ("claims.0.value.where", ..., "claims.0: value: say where it was read"),
        ("claims.0.value.value", True, "claims.0.value.value: write a statement as a text in quotes"),
        ("claims.0.value.value", float("nan"), "claims.0.value.value: "),
        ("claims", [CLAIM, CLAIM], "two claims have the id 'net-error'"),
        ("taxonomy.bits", "mixed", "taxonomy.bits: not for pruning, which has criterion, granularity"),
        ("taxonomy.combination", "KD+P", "taxonomy.combination: not for pruning, which has criterion"),
        ("hyperparameters.ratio.default", 1, "hyperparameters.ratio: default must be .* < 1, got 1"),
        ("hyperparameters.ratio.default", "half", "hyperparameters.ratio: default must be a number, got 'half'"),
        ("hyperparameters.ratio.default", "x" * 500, "hyperparameters.ratio: default must be a number, got 'xxx"),
        ("hyperparameters.ratio.type", "flot", "hyperparameters.ratio.type: unknown word 'flot'; did you mean 'float'"),
        (
            "hyperparameters.ratio.maximum",
            1,
            "hyperparameters.ratio: unknown field 'maximum'; known: amount, choices, def",
        ),
        ("hyperparameters.ratio.ge", "x", "hyperparameters.ratio.ge: must be a whole number"),
        ("hyperparameters.ratio.ge", float("nan"), "hyperparameters.ratio.ge: "),
        ("hyperparameters.ratio", 0.5, "hyperparameters.ratio: must be a mapping"),
        ("hyperparameters.ratio", RATIO | {"ge": 0.9, "le": 0.1}, "ratio: no number is >= 0.9 and <= 0.1"),
        ("hyperparameters.ratio", RATIO | {"gt": 0.5, "le": 0.5}, "ratio: no number is > 0.5 and <= 0.5"),
        ("hyperparameters.ratio", RATIO | {"ge": 0, "gt": 1, "lt": 1}, "ratio: no number is > 1 and >= 0 and < 1"),
        ("composition", "sum-pruning ->", "composition: expected a method, found the end"),
        ("composition", "a{name=x} -> b{name=x}", "composition: two stages are named 'x'"),
        ("contract", {"refuses": {"CNN": "("}}, "contract.refuses.CNN: must be a valid regular expression"),
        ("contract", {"refuses": {"VITT": "x"}}, "contract.refuses.VITT"),
        ("paper.arxiv", "arXiv:1608.08710", "paper.arxiv"),
        ("paper.year", 17, "paper.year"),
        ("ref", 0, "ref"),
    ],
)
def test_what_is_wrong_is_named_in_one_line(path: str, value: Any, says: str) -> None:
    with pytest.raises(UsageError, match=f"^here: .*{says}") as caught:
        checked_card(changed(path, value), "here")
    text = str(caught.value)
    assert "\n" not in text
    assert len(PLACE + text) < 300


@pytest.mark.parametrize("bounds", [{"ge": 0.5, "le": 0.5}, {"gt": 0, "ge": 0, "le": 1}, {"lt": 0}, {"ge": 7}])
def test_bounds_that_leave_a_number_are_taken(bounds: dict[str, float]) -> None:
    card = checked_card(changed("hyperparameters.ratio", RATIO | bounds), "here")
    assert card.hyperparameters["ratio"].model_dump(exclude_unset=True) == RATIO | bounds


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


def test_broken_yaml_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "broken.yaml").write_text("key: broken\nname: [1, 2\n", encoding="utf-8")
    with pytest.raises(UsageError, match=r"broken\.yaml: line 3: not plain YAML"):
        read_card(tmp_path / "broken.yaml")


@pytest.mark.parametrize("text", ["", "- 1\n", "only text\n"])
def test_a_card_is_a_mapping(text: str, tmp_path: Path) -> None:
    (tmp_path / "odd.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=r"odd\.yaml: a card is a mapping"):
        read_card(tmp_path / "odd.yaml")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        read_card(tmp_path / "odd.yaml")
