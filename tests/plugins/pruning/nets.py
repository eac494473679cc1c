"""What the pruning tests share: a net without norms, and a method that looks into a stage."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tests.core.helpers import offering
from torch import Tensor, nn

from condensery import Method, Registry, Run, hookimpl
from condensery.recipe import parse_recipe
from condensery.run import Stage
from condensery.tasks import TaskFacts

torch.set_num_threads(1)
Look = Callable[[Stage], None]


class Plain(nn.Module):
    """Two 3x3 convolutions with biases and ReLU, of 4 and 6 filters, and a linear layer behind a global average."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 4, 3, padding=1)
        self.conv2 = nn.Conv2d(4, 6, 3, padding=1)
        self.linear = nn.Linear(6, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``(batch, classes)``."""
        return self.linear(self.conv2(self.conv1(x).relu()).relu().mean((2, 3)))  # type: ignore[no-any-return]


class Mobile(nn.Module):
    """A convolution, a depthwise one, a projection shortcut around both, norms behind all three."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 8, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
        self.bn2 = nn.BatchNorm2d(8)
        self.downsample = nn.Sequential(nn.Conv2d(channels, 8, 1, bias=False), nn.BatchNorm2d(8))
        self.linear = nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``(batch, classes)``."""
        out = self.bn2(self.depthwise(self.bn(self.conv(x)).relu()))
        return self.linear((out + self.downsample(x)).relu().mean((2, 3)))  # type: ignore[no-any-return]


NETS: dict[str, type[nn.Module]] = {"plain-cnn": Plain, "mobile-cnn": Mobile}


def _build(facts: TaskFacts, name: str) -> nn.Module:
    return NETS[name](facts.channels, facts.outputs)


def run(
    path: Path, stages: list[Any], model: Any, look: dict[str, Look] | None = None, task: str = "digits", **train: Any
) -> dict[str, Any]:
    """Run stages on 64 examples, four steps an epoch; return the report.

    :param look: by hook of the method ``look``, a function of the stage.
    """

    looks = {hook: lambda stage: None for hook in ("prepare", "before_step", "after_epoch", "end_stage")} | (look or {})

    @dataclasses.dataclass(eq=False, kw_only=True)
    class LookInside(Method):
        key = "look"

        @hookimpl
        def prepare(self, stage: Stage) -> None:
            looks["prepare"](stage)

        @hookimpl
        def before_step(self, stage: Stage) -> None:
            looks["before_step"](stage)

        @hookimpl
        def after_epoch(self, stage: Stage) -> None:
            looks["after_epoch"](stage)

        @hookimpl
        def end_stage(self, stage: Stage) -> None:
            looks["end_stage"](stage)

    data = {
        "model": model,
        "task": task,
        "base": "none",
        "data": {"subset": {"size": 64}},
        "train": {"batch_size": 16, "optimizer": {"lr": 0.05, "options": {"momentum": 0.9}}, **train},
        "stages": stages,
    }
    given = offering(methods={"look": LookInside}, models=dict.fromkeys(NETS, _build))
    registry = Registry.open([("nets", given)])
    return Run(parse_recipe(data), registry, out=path / "run").execute()
