"""What the tests of core share: a quantizer, a task of random inputs, a method made of functions, small recipes."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from condensery import Method, Registry, hookimpl
from condensery.contract import Register
from condensery.nets import QUANTIZE, Transform, straight_through
from condensery.recipe import parse_recipe
from condensery.run import Observer, Outputs, Stage
from condensery.tasks import Batch, Task

torch.set_num_threads(1)


class Sign(Transform):
    """Three levels: -s, 0, s."""

    key = "test-sign"
    rank = QUANTIZE

    def forward(self, value: Tensor) -> Tensor:
        return straight_through(value.sign() * 0.5, value)

    def holds(self, final: Tensor) -> str | None:
        levels = len(final.unique())  # type: ignore[no-untyped-call]
        return f"{levels} levels" if levels > 3 else None


class Inputs(Task):
    """A task that is only its inputs, made by a function of the batch size."""

    def __init__(self, make: Callable[[int], Any]) -> None:
        self.example = make  # type: ignore[method-assign, assignment]

    def batches(self, *args: Any, **kwargs: Any) -> Iterator[Batch]:
        yield Batch(self.example(4), torch.tensor([0, 0, 1, 1]))

    def count(self, *args: Any) -> int:
        return 4

    def example(self, batch_size: int = 2) -> Any:
        raise AssertionError("replaced when it is made")


def answered(rows: Tensor, task: Task | None = None, labels: Any = None) -> Outputs:
    """Return outputs of class scores, ``(rows, classes)`` for a plain classification."""
    return Outputs(rows, task or Inputs(torch.zeros), Batch(rows, labels))


@contextlib.contextmanager
def untouched(net: nn.Module) -> Iterator[None]:
    """Assert that a net in train mode keeps each module's mode and all its buffers, batch statistics above all."""
    assert net.training
    modes = {path: module.training for path, module in net.named_modules()}
    buffers = {name: buffer.clone() for name, buffer in net.named_buffers()}
    assert any(name.endswith("num_batches_tracked") for name in buffers)
    yield
    assert modes == {path: module.training for path, module in net.named_modules()}
    assert [n for n, b in net.named_buffers() if not torch.equal(b, buffers[n])] == []


@dataclasses.dataclass(eq=False, kw_only=True)
class Act(Method):
    """A method whose hooks are given as functions, to look inside a stage.

    The key of a subclass is its name in lower case.
    """

    prepare_: Any = None

    def __init_subclass__(cls) -> None:
        cls.key = cls.__name__.lower()

    def __post_init__(self) -> None:
        """Let subclasses that are not dataclasses have one."""

    @hookimpl
    def prepare(self, stage: Stage) -> None:
        if self.prepare_ is not None:
            self.prepare_(stage)


class Watch(Observer):
    """Keeps the student of the stage that ended last, and can stop a run as if it were killed.

    :param stop_after: epochs of a stage, 0 for its end, after which it stops.
    :param where: tells in which stages.
    """

    student: nn.Module

    def __init__(self, *, stop_after: int | None = None, where: Callable[[Stage], bool] = lambda stage: True) -> None:
        self.stop_after, self.where = stop_after, where

    def epoch_ended(self, stage: Stage, history: Sequence[Mapping[str, Any]]) -> None:
        if self.stop_after == stage.epoch + 1 and self.where(stage):
            raise KeyboardInterrupt

    def stage_ended(self, stage: Stage) -> None:
        self.student = stage.student.module
        if self.stop_after == 0 and self.where(stage):
            raise KeyboardInterrupt


def offering(**kinds: Mapping[str, Any]) -> object:
    """Return a plugin that offers these targets, by kind and key: ``offering(methods={"look": LookInside})``."""

    def hook(offers: Mapping[str, Any]) -> Callable[[object, Register], None]:
        @hookimpl
        def register_all(self: object, register: Register) -> None:
            for key, target in offers.items():
                register(key, target)

        return register_all

    hooks = {f"register_{kind}": hook(offers) for kind, offers in kinds.items()}
    return type("Offering", (), {"condensery_api": 1, **hooks})()


def registry(**methods: type[Method]) -> Registry:
    """Return the installed plugins' registry with a quantizer, ``test-sign``, and these methods by key."""
    return Registry.open([("given", offering(methods=methods, layers={"test-sign": Sign}))])


def recipe(stages: list[Any], **changes: Any) -> Any:
    data = {
        "model": {"key": "resnet8", "width": 0.5},
        "task": "digits",
        "base": "none",
        "data": {"subset": {"size": 32}},
        "train": {"epochs": 1, "batch_size": 16, "optimizer": {"lr": 0.05, "options": {"momentum": 0.9}}},
        "stages": stages,
        **changes,
    }
    return parse_recipe(json.loads(json.dumps(data)))
