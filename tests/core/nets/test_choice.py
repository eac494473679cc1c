"""The one spelling of layers: paths, modules above, patterns, words, and which name counts where several fit."""

from __future__ import annotations

import pytest

from condensery import UnknownKey
from condensery.nets import choose_layers

PATHS = ["conv1", "layer1.0.conv1", "layer1.0.conv2", "layer1.0.downsample.0", "layer10.0.conv1", "fc"]


def chosen(*names: str, paths: list[str] = PATHS) -> dict[str, str]:
    return choose_layers(names, paths, lambda: ("conv1", "fc"), "method.setting")


def test_a_path_means_one_layer() -> None:
    assert chosen("conv1") == {"conv1": "conv1"}


def test_a_module_means_all_layers_in_it_and_none_that_only_begins_alike() -> None:
    assert list(chosen("layer1")) == ["layer1.0.conv1", "layer1.0.conv2", "layer1.0.downsample.0"]


def test_a_pattern_means_what_fits() -> None:
    assert list(chosen("*.conv1")) == ["layer1.0.conv1", "layer10.0.conv1"]
    assert list(chosen("*")) == PATHS


@pytest.mark.parametrize(
    ("word", "means"), [("first", ["conv1"]), ("last", ["fc"]), ("shortcuts", ["layer1.0.downsample.0"])]
)
def test_words(word: str, means: list[str]) -> None:
    assert list(chosen(word)) == means


def test_a_word_may_mean_nothing_in_a_net_without_such_layers() -> None:
    assert chosen("shortcuts", paths=["conv1", "fc"]) == {}


def test_a_layer_with_the_name_of_a_word_is_meant_before_it() -> None:
    assert chosen("last", paths=["first", "last", "fc"]) == {"last": "last"}


def test_the_most_exact_name_counts_whatever_the_order() -> None:
    names = ["*", "*conv1", "layer1", "layer1.0", "first", "layer1.0.conv1"]
    expected = {
        "conv1": "first",
        "layer1.0.conv1": "layer1.0.conv1",
        "layer1.0.conv2": "layer1.0",
        "layer1.0.downsample.0": "layer1.0",
        "layer10.0.conv1": "*conv1",
        "fc": "*",
    }
    assert chosen(*names) == expected
    assert chosen(*reversed(names)) == expected


@pytest.mark.parametrize(
    ("wrong", "near"), [("layre1", "layer1"), ("layer1.0.conv3", "layer1.0.conv"), ("frist", "first"), ("*.bn*", "")]
)
def test_a_name_that_no_layer_has_is_refused_with_the_nearest(wrong: str, near: str) -> None:
    with pytest.raises(UnknownKey, match=r"^method\.setting: unknown layer") as refused:
        chosen("conv1", wrong)
    assert near in str(refused.value)


def test_the_edges_are_only_looked_up_where_a_name_asks() -> None:
    def never() -> tuple[str, str]:
        raise AssertionError

    assert choose_layers(["conv1"], PATHS, never, "method.setting") == {"conv1": "conv1"}
