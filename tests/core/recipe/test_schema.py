from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from condensery.errors import UnknownKey, UsageError
from condensery.recipe import (
    ModelSpec,
    Recipe,
    RoundSpec,
    StageSpec,
    TrainSpec,
    automatic_name,
    checked,
    fingerprint,
    flat,
    load_recipe,
    load_yaml,
    merge,
    parse_recipe,
    parse_yaml,
)


def recipe(*stages: Any, **fields: Any) -> Recipe:
    return parse_recipe({"model": "resnet20", "task": "digits", "stages": list(stages), **fields})


def first(result: Recipe) -> StageSpec:
    return next(flat(result.stages))


def test_methods_may_be_spelt_in_three_ways() -> None:
    stage = first(recipe({"methods": ["a", {"b": {"T": 4}}, {"key": "c", "settings": {"T": 3}}, {"d": None}]}))
    assert [(m.key, m.settings) for m in stage.methods] == [("a", {}), ("b", {"T": 4}), ("c", {"T": 3}), ("d", {})]


def test_a_word_is_a_stage_also_inside_rounds() -> None:
    result = recipe("a", {"repeat": 2, "stages": ["b", {"stages": ["c"], "until": "sparsity > 0.5"}]})
    assert [[m.key for m in s.methods] for s in flat(result.stages)] == [["a"], ["b"], ["c"]]
    outer = result.stages[1]
    assert isinstance(outer, RoundSpec)
    assert isinstance(outer.stages[1], RoundSpec)
    assert (outer.repeat, outer.stages[1].repeat, outer.stages[1].until) == (2, 1, "sparsity > 0.5")


def test_roles() -> None:
    stage = first(recipe({"teacher": ["original", {"key": "resnet56", "width": 2, "depth": 3}], "student": "resnet8"}))
    assert stage.student == ModelSpec(key="resnet8")
    assert stage.teachers[0] == "original"
    big = stage.teachers[1]
    assert isinstance(big, ModelSpec)
    assert (big.key, big.width, big.config) == ("resnet56", 2.0, {"depth": 3})
    assert first(recipe({"teacher": "stage:p@epoch=3"})).teachers == ["stage:p@epoch=3"]
    assert first(recipe("a")).teachers == []
    assert first(recipe("a")).student == "previous"


def test_automatic_names() -> None:
    def names(*stages: Any) -> list[str]:
        return [s.name for s in flat(recipe(*stages).stages)]

    assert names("a", "a", {"methods": ["a", "b"]}, {}, {}) == ["a", "a#2", "a+b", "train", "train#2"]
    assert names("a", {"stages": ["a", "b"]}, "b") == ["a", "a#2", "b", "b#2"]
    # A given name wins over an automatic one, wherever it stands.
    assert names("a", {"methods": ["b"], "name": "a"}) == ["a#2", "a"]
    assert names("a", "a", {"methods": ["b"], "name": "a#2"}) == ["a", "a#3", "a#2"]
    assert automatic_name(["a", "b"], {"a+b", "a+b#2"}) == "a+b#3"


def test_dump_and_parse_are_inverse() -> None:
    result = recipe(
        "a",
        {"methods": [{"a": {"x": [1, "=round"]}}], "teacher": {"key": "m", "depth": 3}, "epochs": 0, "data": {}},
        {"repeat": 3, "until": "sparsity >= 0.9", "stages": ["b", "b"]},
        base="none",
        train={"epochs": 2, "optimizer": {"lr": 0.5}},
        data={"subset": {"per_class": 5}},
        seed=4,
    )
    assert parse_recipe(result.dump()) == result
    assert result.dump()["stages"][0] == {"name": "a", "methods": [{"key": "a"}]}


def test_training_is_laid_over() -> None:
    result = recipe(
        {"train": {"optimizer": {"lr": 0.5}, "batch_size": 8}, "epochs": 7},
        "a",
        train={"epochs": 2, "optimizer": {"name": "adam", "weight_decay": 0.1}},
    )
    one, two = flat(result.stages)
    train = result.train_of(one)
    assert (train.epochs, train.batch_size) == (7, 8)
    assert (train.optimizer.name, train.optimizer.lr, train.optimizer.weight_decay) == ("adam", 0.5, 0.1)
    assert result.train_of(two).epochs == 2


def test_merge_goes_into_mappings_only() -> None:
    below = {"a": {"x": 1, "y": [1, 2]}, "b": 1}
    assert merge(below, {"a": {"y": [3]}, "b": {"z": 1}}) == {"a": {"x": 1, "y": [3]}, "b": {"z": 1}}
    assert below == {"a": {"x": 1, "y": [1, 2]}, "b": 1}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"modle": "m"}, "recipe: unknown field 'modle'; did you mean 'model'"),
        ({"stages": [{"metods": ["a"]}]}, "stages.0: unknown field 'metods'; did you mean 'methods'"),
        ({"stages": [{"stages": [{"metods": []}]}]}, "stages.0.stages.0: unknown field 'metods'; did you mean 'method"),
        ({"stages": [{"stages": ["a"], "repeet": 2}]}, "stages.0: unknown field 'repeet'; did you mean 'repeat'"),
        ({"stages": [{"data": {"subset": {"sise": 3}}}]}, "data: subset: unknown field 'sise'; did you mean 'size'"),
        ({"stages": [{"players": {"g": {"trian": 1}}}]}, "players.g: unknown field 'trian'; did you mean 'train'"),
        (
            {"stages": [{"players": {"g": {"optimizer": {"lrr": 1}}}}]},
            "players.g.optimizer: unknown field 'lrr'; did you mean 'lr'",
        ),
        ({"train": {"epocs": 1}}, "recipe: train: unknown field 'epocs'; did you mean 'epochs'"),
        ({"base": {"optimizer": {"lrr": 1}}}, "recipe: base: optimizer: unknown field 'lrr'; did you mean 'lr'"),
        (
            {"stages": [{"stages": [{"name": "s", "train": {"epocs": 1}}]}]},
            "recipe: stage 's': train: unknown field 'epocs'; did you mean 'epochs'",
        ),
    ],
)
def test_unknown_fields_are_named_with_the_nearest(data: dict[str, Any], message: str) -> None:
    with pytest.raises(UnknownKey) as caught:
        parse_recipe({"model": "m", "task": "t", **data})
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"seed": -1}, "recipe: seed: must be >= 0, got -1"),
        ({"seed": "one"}, "recipe: seed: must be a whole number, got 'one'"),
        ({"train": {"clip_norm": "a"}}, "recipe: train: clip_norm: must be a number, got 'a'"),
        ({"train": {"channels_last": "maybe"}}, "channels_last: must be true or false, got 'maybe'"),
        ({"train": {"autocast": "bf61"}}, "must be 'none' or 'bf16', got 'bf61'; did you mean 'bf16'?"),
        ({"model": 3}, "recipe: model: "),
        ({"model": {"width": 2}}, "recipe: model.key: missing"),
        ({"model": {"key": "m", "width": 0}}, "recipe: model.width: "),
        ({"base": "nune"}, "recipe: base: "),
        ({"train": {"epochs": -1}}, "recipe: train: epochs: "),
        ({"stages": ["a", 3]}, "recipe: stages.1: "),
        ({"stages": [{"epochs": -1}]}, "recipe: stages.0.epochs: "),
        ({"stages": [{"stages": []}]}, "recipe: stages.0.stages: "),
        ({"stages": [{"stages": ["a"], "repeat": 0}]}, "recipe: stages.0.repeat: "),
        ({"stages": [{"stages": ["a"], "over": "rows"}]}, "recipe: stages.0.over: "),
        ({"stages": [{"methods": [{"a": 3}]}]}, "recipe: stages.0.methods.0.settings: "),
        ({"stages": [{"players": {"g": {"every": "1/0"}}}]}, "recipe: stages.0.players.g.every: "),
        (
            {"stages": [{"teacher": "self"}]},
            "recipe: stages.0.teacher: 'self' is not possible: one net can't be in train",
        ),
        ({"stages": [{"teacher": ["original", 3]}]}, "recipe: stages.0.teacher: a role is a word or a model, got 3"),
        ({"stages": [{"teacher": {"width": 2}}]}, "recipe: stages.0.teacher.key: missing"),
        ({"stages": [{"student": None}]}, "recipe: stages.0.student: a role is a word or a model, got None"),
        ({"stages": [{"name": "x"}, {"stages": [{"name": "x"}]}]}, "recipe: two stages are named 'x'"),
    ],
)
def test_wrong_values_are_one_line_with_the_place(data: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_recipe({"model": "m", "task": "t", **data})
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"seed": 2**32}, "seed: must be <= 4294967295, got 4294967296"),
        ({"base": {"seed": 2**32}}, "base: seed: must be <= 4294967295"),
        ({"train": {"epochs": 2**31}}, "train: epochs: must be <= 2147483647"),
        ({"train": {"batch_size": 2**31}}, "train: batch_size: must be <= 2147483647"),
        ({"train": {"max_steps": 10**20}}, "train: max_steps: must be <= 2147483647"),
        ({"train": {"workers": 1025}}, "train: workers: must be <= 1024, got 1025"),
        ({"data": {"subset": {"size": 2**31}}}, "data.subset.size: must be <= 2147483647"),
    ],
)
def test_counts_that_nothing_can_count_to_are_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as error:
        recipe("a", **fields)
    assert message in str(error.value)


def test_rounds_in_rounds_are_counted_before_they_are_unrolled() -> None:
    """100 passes of 1,000 stages are just allowed; with one stage beside them there are too many."""
    inner = {"repeat": 999, "stages": ["a"]}
    rounds = {"repeat": 100, "stages": ["b", inner]}
    assert len(list(flat(recipe(rounds).stages))) == 2
    with pytest.raises(UsageError, match="its rounds come to 100,001 stages; 100,000 at most"):
        recipe(rounds, "c")


def test_no_mapping_is_no_recipe() -> None:
    with pytest.raises(UsageError, match="a recipe is a mapping with model, task and stages"):
        parse_recipe(["a"])


def test_checked_names_the_place() -> None:
    assert checked(TrainSpec, {"epochs": 3}, "here").epochs == 3
    with pytest.raises(UsageError, match=r"^here: optimizer\.lr: must be > 0, got 0$"):
        checked(TrainSpec, {"optimizer": {"lr": 0}}, "here")


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-4", 1e-4), ("-2E5", -2e5), ("1.e3", 1000.0), ("1.5e-3", 1.5e-3), ("12", 12), ("e5", "e5"), ("1e", "1e")],
)
def test_yaml_numbers(text: str, value: Any) -> None:
    (found,) = parse_yaml(f"[{text}]")
    assert found == value
    assert type(found) is type(value)


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "slim.yaml"
    path.write_text("model: resnet20\ntask: digits\nstages:\n- {methods: [{network-slimming: {sparsity: 1e-4}}]}\n")
    assert first(load_recipe(path)).methods[0].settings == {"sparsity": 1e-4}
    with pytest.raises(UsageError, match=r"no such file: .*slm\.yaml; there are slim\.yaml"):
        load_recipe(tmp_path / "slm.yaml")
    path.write_text("model: m\nstages: [a\n")
    with pytest.raises(UsageError, match=r"slim\.yaml: line 3: not plain YAML"):
        load_yaml(path)
    path.write_text("seed: 2024-99-99")
    with pytest.raises(UsageError, match="not plain YAML: month must be"):
        load_yaml(path)
    path.write_bytes(b"\xff\xfe\xff")
    with pytest.raises(UsageError, match="can't be read"):
        load_yaml(path)
    path.write_text("model: m\ntask: t\nseed: x\n")
    with pytest.raises(UsageError, match=r"slim\.yaml: seed: "):
        load_recipe(path)


def test_fingerprints_depend_on_the_data_alone() -> None:
    assert fingerprint({"a": 1, "b": [2]}) == fingerprint({"b": [2], "a": 1})
    assert len({fingerprint(d) for d in ({"a": 1}, {"a": 2}, {"b": 1}, {"a": "1"}, {"a": [1]})}) == 5
