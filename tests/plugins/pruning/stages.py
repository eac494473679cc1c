"""Stages around small nets, to look at what methods compute."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from condensery.nets import Weight
from condensery.recipe import ModelSpec, StageSpec, TrainSpec
from condensery.run import Player, Stage
from condensery.tasks import Answers, Batch, Split, Task, TaskFacts
from condensery_plugins.pruning.curvature import unflatten
from condensery_plugins.tasks.tensors import Stored, TensorTask


class Given(TensorTask):
    """Inputs and targets as given; half the squared error, summed over outputs, or cross entropy for whole numbers."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        super().__init__()
        self.x, self.y = x, y
        self.facts = TaskFacts("vector", outputs=1, size=x[0].numel())

    def load(self, split: Split) -> Stored:
        return {"x": self.x}, self.y

    def inputs(self, stored: object, index: Tensor, noise: object) -> Tensor:
        return self.x[index]

    def example(self, batch_size: int = 2) -> Tensor:
        return self.x[:batch_size]

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor | None:
        labels: Tensor = batch.labels
        if not labels.is_floating_point():
            return nn.functional.cross_entropy(outputs, labels)
        return ((outputs - labels) ** 2).sum(1).mean() / 2


class Signs(Given):
    """Right where the output's sign is the target's."""

    def meter(self) -> Answers:
        return Answers(
            lambda outputs, batch: (outputs.sign() == batch.labels.sign())[:, 0],
            lambda outputs, batch: torch.zeros(()),
        )


def stage_of(net: nn.Module, task: Task, *, layer: str | None = None, **train: Any) -> Stage:
    """Return a stage with a net as it is.

    :param layer: of a pass in a round over layers.
    :param train: training settings.
    """
    settings = TrainSpec(**{"batch_size": 7, **train})
    stage = Stage(StageSpec(name="m"), task, settings, seed=0, device=torch.device("cpu"), layer=layer)
    stage.players["student"] = Player("student", net, spec=ModelSpec(key="given"), trains=True)
    return stage


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def weights_in(stage: Stage) -> list[Weight]:
    return stage.weights() + stage.weights(tensor="bias")


def whole_hessian(stage: Stage, weights: list[Weight]) -> Tensor:
    """Return the Hessian of the loss on all examples, by torch, over all weights in order."""
    net = stage.student.module
    (batch,) = stage.task.batches("train", batch_size=1000)

    def loss(flat: Tensor) -> Tensor:
        named = {w.name: v for w, v in zip(weights, unflatten(flat, weights), strict=True)}
        found = stage.task.loss(functional_call(net, named, (batch.inputs,)), batch)
        assert found is not None
        return found

    flat = torch.cat([w.latent.detach().flatten() for w in weights])
    return torch.autograd.functional.hessian(loss, flat)  # type: ignore[no-untyped-call, no-any-return]
