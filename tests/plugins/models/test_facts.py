from __future__ import annotations

import pytest
from torch import nn

from condensery.errors import UnknownKey, UsageError
from condensery.tasks import TaskFacts
from condensery_plugins.models.facts import builder, scaled, shared

IMAGE = TaskFacts("image", outputs=3, channels=1, size=8)
TEXT = TaskFacts("text", outputs=3, vocabulary=9, length=8)


@builder("image", least=8, family="my/")
def build(facts: TaskFacts, name: str, *, width: float = 1.0, bias: bool = True) -> nn.Module:
    return nn.Linear(scaled(width, 10), facts.outputs, bias=bias)


@builder("image")
def build_open(facts: TaskFacts, name: str, *, width: float = 1.0, **config: int) -> nn.Module:
    return nn.Linear(sum(config.values()), facts.outputs)


def test_known_settings_reach_the_builder() -> None:
    net = build(IMAGE, "x", width=0.5, bias=False)
    assert isinstance(net, nn.Linear)
    assert net.in_features == 5
    assert len(list(net.parameters())) == 1, "no bias"


@pytest.mark.parametrize(
    ("setting", "error", "says"),
    [
        ("widht", UnknownKey, "model 'my/x': unknown setting 'widht'; did you mean 'width'"),
        ("pretrained", UsageError, "model 'my/x' has no weights on the hub; give 'weights'"),
        ("depth", UsageError, "model 'my/x' has a fixed depth"),
    ],
)
def test_unknown_settings_are_refused(setting: str, error: type[UsageError], says: str) -> None:
    with pytest.raises(error, match=says):
        build(IMAGE, "x", **{setting: 1})


def test_an_open_builder_takes_any_setting() -> None:
    assert build_open(IMAGE, "x", depth=3, anything=4).in_features == 7


def test_other_tasks_are_refused() -> None:
    with pytest.raises(UsageError, match="model 'my/x' takes images, the task gives texts"):
        build(TEXT, "x")
    with pytest.raises(UsageError, match="needs images of at least 8x8, the task's are 7x7"):
        build(TaskFacts("image", outputs=3, channels=1, size=7), "x")


def test_scaled() -> None:
    assert [scaled(w, 10) for w in (0.01, 0.25, 1, 1.5)] == [1, 2, 10, 15]
    assert [scaled(w, 48, multiple=3) for w in (0.001, 0.5, 0.7)] == [3, 24, 33]
    with pytest.raises(UsageError, match="width must be positive, got 0"):
        scaled(0, 10)


@pytest.mark.parametrize(("size", "heads"), [(25, 3), (2, 3), (24, 0)])
def test_heads_share_evenly(size: int, heads: int) -> None:
    assert shared("x", "dim", 24, 3) == 24
    with pytest.raises(UsageError, match=f"model 'x': dim {size} is not a multiple of {heads} heads"):
        shared("x", "dim", size, heads)


def test_a_layer_without_channels_is_refused() -> None:
    assert scaled(0.01, 10) == 1
    with pytest.raises(UsageError, match="a layer has at least one channel or unit, got -1"):
        scaled(1.0, -1)
