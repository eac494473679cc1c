"""What fits a net is what a run of it says, and what goes with what is what a recipe allows."""

from __future__ import annotations

import json
import re

import pytest
from tests.catalogue.matrix.made import cell, matrix
from tests.core.front.nets import Plain, loaders

from condensery import CondenseryError, Registry, Run
from condensery.contract import build_method
from condensery.recipe import parse, parse_recipe
from condensery_catalogue import Fit, fit
from condensery_catalogue.cli import app
from condensery_catalogue.fitting import Partners
from condensery_catalogue.matrix import Matrix

REGISTRY = Registry.open()
KEYS = ("magnitude", "network-slimming", "lsq", "kmeans-sharing", "hinton-kd", "huffman", "structured-magnitude")


def few(*keys: str) -> Registry:
    """Return a registry with only some of the methods."""
    registry = Registry.open()
    methods = registry.entries["methods"]
    registry.entries["methods"] = {key: methods[key] for key in keys}
    return registry


@pytest.fixture(scope="module")
def found() -> dict[str, Fit]:
    return {one.key: one for one in fit("resnet8", registry=few(*KEYS))}


def test_each_method_applies_or_says_why_not(found: dict[str, Fit]) -> None:
    assert set(found) == set(KEYS)
    refused = {key for key, one in found.items() if not one.applies}
    assert refused == {"structured-magnitude"}
    assert "attention" in found["structured-magnitude"].why
    assert list(found)[-1] == "structured-magnitude"  # what doesn't apply comes last


def test_what_it_saves_comes_from_its_words(found: dict[str, Fit]) -> None:
    assert found["network-slimming"].saves[0] == "parameters, MACs, memory"
    assert found["magnitude"].saves == ("bytes",)
    assert found["lsq"].saves == ("bytes", "bit operations")
    assert found["hinton-kd"].saves == ("errors of a small student",)


def test_partners_are_what_a_recipe_allows(found: dict[str, Fit], tmp_path_factory: pytest.TempPathFactory) -> None:
    """Each pair, one after the other and beside each other, against the dry run of core."""
    registry = few(*KEYS)
    keys = [key for key, one in found.items() if one.applies]

    def allowed(line: str) -> bool:
        made = {"model": "resnet8", "task": "digits", "base": "none", "stages": parse(line)}
        recipe = parse_recipe({**made, "data": {"subset": {"size": 32}}, "train": {"batch_size": 16}})
        try:
            Run(recipe, registry, out=tmp_path_factory.mktemp("pair") / "run", device="cpu").check()
        except CondenseryError:
            return False
        return True

    pairs = [("lsq", "magnitude"), ("magnitude", "lsq"), ("lsq", "kmeans-sharing"), ("network-slimming", "hinton-kd")]
    assert {first for first, _ in pairs} <= set(keys)
    for first, second in pairs:
        assert (second in found[first].then) == allowed(f"{first} -> {second}"), (first, second)
    assert "magnitude" in found["network-slimming"].then
    assert "lsq" not in found["kmeans-sharing"].then  # weights that share few values are no longer free


def test_partners_that_every_net_refused_are_not_offered_and_those_that_worked_are_named() -> None:
    """By words huffman may come after all three; the matrix knows that it has nothing to code after hinton-kd."""
    keys = ("hinton-kd", "huffman", "lsq", "magnitude")
    methods = {key: build_method(key, REGISTRY.load("methods", key), {}) for key in keys}
    cells = [
        cell("then", "hinton-kd", "huffman", reason="there is nothing to code"),
        cell("with", "hinton-kd", "huffman", reason="there is nothing to code"),
        cell("then", "magnitude", "huffman", quality=(89.0,), bytes=100),
        cell("then", "lsq", "huffman", reason="there is nothing to code"),
        cell("then", "lsq", "huffman", net="LSTM", quality=(70.0,), bytes=100, outcome="worse"),
    ]
    told = Partners(methods, keys, Matrix(matrix().nets, tuple(cells)))
    assert [key for key in keys if "huffman" in Partners(methods, keys).then(key)] == [*keys]
    assert [key for key in keys if "huffman" in told.then(key)] == ["huffman", "lsq", "magnitude"]
    assert "huffman" in Partners(methods, keys).beside("hinton-kd")
    assert "huffman" not in told.beside("hinton-kd")
    assert told.worked("magnitude") == ("then huffman",)
    assert told.worked("lsq") == told.worked("hinton-kd") == ()


def test_a_net_of_ones_own() -> None:
    train, _ = loaders()
    told: list[str] = []
    found = fit(Plain(), train, registry=few("network-slimming", "structured-magnitude"), told=told.append)
    assert [(one.key, one.applies) for one in found] == [("network-slimming", True), ("structured-magnitude", False)]
    assert told == ["network-slimming", "structured-magnitude"]


@pytest.mark.parametrize(
    ("net", "task", "said"),
    [
        ("resnet21", "digits", "unknown model 'resnet21'; did you mean 'resnet20'"),
        ("resnet8(width=abc)", "digits", "width"),
        ("resnet8", "digit", "unknown task 'digit'; did you mean 'digits'"),
    ],
)
def test_a_wrong_net_or_task_is_no_methods_fault(net: str, task: str, said: str) -> None:
    told: list[str] = []
    with pytest.raises(CondenseryError, match=re.escape(said)):
        fit(net, task=task, registry=few("magnitude"), told=told.append)
    assert told == []


def test_the_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("condensery_catalogue.fitting.open_registry", lambda: few("magnitude", "structured-magnitude"))
    monkeypatch.setenv("COLUMNS", "80")

    def said(*arguments: str) -> str:
        app(["fit", "resnet8", *arguments], standalone_mode=False)
        return capsys.readouterr().out

    table = said()
    assert max(map(len, table.splitlines())) <= 80
    assert "magnitude" in table
    assert "what doesn't" in table

    one = said("--method", "magnitude")
    assert "in the same stage: " in one
    command = one.rpartition("run it: ")[2]
    assert command.startswith('condensery compose "magnitude(')

    data = json.loads(said("--json"))
    assert [row["key"] for row in data] == ["magnitude", "structured-magnitude"]
    with pytest.raises(CondenseryError, match=r"'magnitud'.*'magnitude'"):
        said("--method", "magnitud")
