from __future__ import annotations

import copy
from typing import Any

import pytest

from condensery.errors import UnknownKey, UsageError
from condensery.recipe import apply_overrides, flat, parse_recipe, set_values


def recipe() -> dict[str, Any]:
    return {
        "model": "resnet20",
        "task": {"key": "digits", "size": 8},
        "stages": [
            "magnitude",
            {
                "name": "teach.me",
                "methods": ["a.b", {"hinton-kd": {"T": 4}}, {"key": "hinton-kd", "settings": {"T": 3}}],
                "teacher": ["original", "resnet56"],
            },
            {
                "repeat": 2,
                "stages": [{"methods": ["lsq"]}, {"stages": [{"name": "deep", "methods": [{"lsq": None}]}]}],
            },
        ],
    }


def after(*assignments: str) -> Any:
    data = recipe()
    out = apply_overrides(data, list(assignments))
    assert data == recipe()  # the input stays as it is
    parse_recipe(out)
    return out


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2", 2),
        ("1e-4", 1e-4),
        ("-2.5", -2.5),
        ("true", True),
        ("null", None),
        ("", None),
        ("cosine", "cosine"),
        ('"2"', "2"),
        ("[0.5, 9e-1]", [0.5, 0.9]),
        ("{a: 1, b: [x]}", {"a": 1, "b": ["x"]}),
        ("=1 - 0.8**round", "=1 - 0.8**round"),
        ("stage:p", "stage:p"),
    ],
)
def test_values_are_yaml(text: str, value: Any) -> None:
    out = after(f"model.x={text}")
    assert out["model"] == {"key": "resnet20", "x": value}
    assert type(out["model"]["x"]) is type(value)


def test_fields_of_the_recipe() -> None:
    out = after("train.epochs=3", "train.optimizer.lr=0.2", "train.optimizer.options.momentum=0.9", "seed=7")
    assert out["train"] == {"epochs": 3, "optimizer": {"lr": 0.2, "options": {"momentum": 0.9}}}
    assert out["seed"] == 7
    assert after("data.subset.per_class=5")["data"] == {"subset": {"per_class": 5}}
    assert after("base=none")["base"] == "none"
    assert after("base.epochs=2")["base"] == {"epochs": 2}


def test_models_and_tasks_take_their_own_settings() -> None:
    assert after("model.width=2", "model.net.depth=3")["model"] == {"key": "resnet20", "width": 2, "net": {"depth": 3}}
    assert after("model=resnet56", "model.width=2")["model"] == {"key": "resnet56", "width": 2}
    assert after("task.size=16")["task"] == {"key": "digits", "size": 16}
    assert after("stages.1.teacher.1.width=2")["stages"][1]["teacher"] == ["original", {"key": "resnet56", "width": 2}]


@pytest.mark.parametrize(
    ("path", "place"),  # among all methods of the recipe: magnitude, a.b, hinton-kd, hinton-kd, lsq, lsq
    [
        ("stages.0.magnitude", 0),
        ("stages.magnitude.magnitude", 0),  # by its automatic name
        ("stages.1.a.b", 1),
        ("stages.1.hinton-kd", 2),
        ("stages.1.hinton-kd#2", 3),
        ("stages.teach.me.hinton-kd", 2),
        ("stages.teach.me.a.b", 1),
        ("stages.2.stages.0.lsq", 4),
        ("stages.lsq.lsq", 4),
        ("stages.2.stages.1.stages.0.lsq", 5),
        ("stages.deep.lsq", 5),
    ],
)
def test_settings_of_methods(path: str, place: int) -> None:
    def settings(data: Any) -> list[dict[str, Any]]:
        return [m.settings for s in flat(parse_recipe(data).stages) for m in s.methods]

    expected = settings(recipe())
    expected[place] |= {"T": 2, "alpha": 0.5}
    assert settings(after(f"{path}.T=2", f"{path}.alpha=0.5")) == expected


def test_stages_and_rounds() -> None:
    out = after("stages.0.epochs=2", "stages.deep.train.epochs=4", "stages.2.repeat=5", "stages.2.until=sparsity > 0.9")
    assert out["stages"][0] == {"methods": ["magnitude"], "epochs": 2}
    assert out["stages"][2]["stages"][1]["stages"][0]["train"] == {"epochs": 4}
    assert (out["stages"][2]["repeat"], out["stages"][2]["until"]) == (5, "sparsity > 0.9")
    assert after("stages.0.players.gen.every=1/5")["stages"][0]["players"] == {"gen": {"every": "1/5"}}
    assert after("stages.1.name=x", "stages.x.epochs=1")["stages"][1]["epochs"] == 1
    assert after("stages.0=lsq")["stages"][0] == "lsq"


def test_lists_by_number() -> None:
    out = after("stages.0.magnitude.sparsity=[0.1, 0.2]", "stages.0.magnitude.sparsity.1=0.9")
    assert out["stages"][0]["methods"] == [{"key": "magnitude", "settings": {"sparsity": [0.1, 0.9]}}]


def test_a_layers_path_is_one_key() -> None:
    def density(*assignments: str) -> Any:
        path = "stages.0.magnitude.density"
        out = after(f"{path}={{layer1.0.conv1: 0.5, layer1: 0.1}}", *(f"{path}{a}" for a in assignments))
        return out["stages"][0]["methods"][0]["settings"]["density"]

    assert density(".layer1.0.conv1=0.2") == {"layer1.0.conv1": 0.2, "layer1": 0.1}
    assert density(".layer1=0.2") == {"layer1.0.conv1": 0.5, "layer1": 0.2}
    assert density(".layer2.1.conv1=0.3") == {"layer1.0.conv1": 0.5, "layer1": 0.1, "layer2.1.conv1": 0.3}
    assert density("=null", ".layer1.0=0.3", ".fc=1") == {"layer1.0": 0.3, "fc": 1}
    assert density("={a.b: {c.d: 1}}", ".a.b.c.d=2") == {"a.b": {"c.d": 2}}
    out = after(
        "stages.1.hinton-kd.weights.layer1.0=2", "train.optimizer.options={a.b: 1}", "train.optimizer.options.a.b=3"
    )
    assert out["stages"][1]["methods"][1]["settings"]["weights"] == {"layer1.0": 2}
    assert out["train"]["optimizer"]["options"] == {"a.b": 3}


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("trian.epochs=3", "unknown field 'trian'; did you mean 'train'"),
        ("train.epocs=3", "unknown field 'epocs'; did you mean 'epochs'"),
        ("train.optimizer.lrr=3", "unknown field 'lrr'; did you mean 'lr'"),
        ("data.subset.siz=3", "unknown field 'siz'; did you mean 'size'"),
        ("stages.magnitud.epochs=3", "unknown stage 'magnitud'; did you mean 'magnitude'"),
        ("stages.1.hintonkd.T=3", "unknown method or stage field 'hintonkd'; did you mean 'hinton-kd'"),
        ("stages.1.epoch=3", "unknown method or stage field 'epoch'; did you mean 'epochs'"),
        ("stages.1.hinton-kd#3.T=3", "unknown method or stage field 'hinton-kd#3'"),
        ("stages.2.repeet=3", "unknown field 'repeet'; did you mean 'repeat'"),
        ("stages.2.lsq.bits=3", "unknown field 'lsq'"),  # a round has no methods
        ("stages.0.players.gen.trian=true", "unknown field 'trian'; did you mean 'train'"),
    ],
)
def test_unknown_names(assignment: str, message: str) -> None:
    with pytest.raises(UnknownKey) as caught:
        apply_overrides(recipe(), [assignment])
    assert message in str(caught.value)
    assert assignment.partition("=")[0] in str(caught.value)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("train.epochs", "expected path=value"),
        ("=3", "a path is names separated by dots"),
        ("train..epochs=3", "a path is names separated by dots"),
        ("train.epochs=[3", "not plain YAML"),
        ("train.epochs=2024-01-01", "not plain YAML"),
        ("model.x=&a [*a]", "not plain YAML"),
        ("model.x=2024-99-99", "not plain YAML"),
        ("stages.9.epochs=3", "no entry '9'; they are numbered from 0, and there are 3"),
        ("stages.1.teacher.2.width=3", "no entry '2'"),
        ("stages.1.teacher.0.width=2", "'original' is no model"),
        ("stages.1.hinton-kd.T.x=3", "the value there is 4, which has no 'x'"),
    ],
)
def test_broken_assignments(assignment: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        apply_overrides(recipe(), [assignment])
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_values_without_text() -> None:
    values = {"stages.0.magnitude.sparsity": [0.5], "model.width": 2.0}
    kept = copy.deepcopy(values)
    out = set_values(recipe(), values)
    assert out == apply_overrides(recipe(), ["stages.0.magnitude.sparsity=[0.5]", "model.width=2.0"])
    out["stages"][0]["methods"][0]["settings"]["sparsity"].append(1)
    assert values == kept
