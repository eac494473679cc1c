"""A GAN on digits: the student makes images of noise, a critic that trains beside it tells them from real ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from tests.tasks_of_all_kinds.made import Made
from torch import Tensor, nn
from torch.func import functional_call

from condensery import Batch, Method, Stage, hookimpl
from condensery.recipe import ModelSpec
from condensery.run import Outputs, Player
from condensery.tasks import Metric, TaskFacts

NOISE, PIXELS = 6, 64


class Generation(Made):
    """Noise to digits of scikit-learn. There are no labels, and no loss but the critic's."""

    key = "made-generation"
    metrics = (Metric("distance", "of mean images", False),)
    facts = TaskFacts("vector", outputs=PIXELS, size=NOISE)

    def make(self, examples: int, generator: torch.Generator) -> Sequence[Tensor]:
        return list(torch.randn(examples, NOISE, generator=generator))

    def batch(self, examples: Sequence[Tensor]) -> Batch:
        return Batch(torch.stack(list(examples)))

    def example(self, batch_size: int = 2) -> Tensor:
        return torch.randn(batch_size, NOISE, generator=torch.Generator().manual_seed(0))

    def loss(self, outputs: Tensor, batch: Batch) -> None:
        return None

    def meter(self) -> Distance:
        return Distance(self.real(100))

    def real(self, images: int) -> Tensor:
        """Return real images with pixels of 0 to 1, ``(images, pixels)``."""
        from sklearn.datasets import load_digits

        found: Any = load_digits()
        return torch.from_numpy(found.data[:images]).float() / 16


class Distance:
    """How far the mean of the made images is from the mean of real ones."""

    def __init__(self, real: Tensor) -> None:
        self.mean, self.total, self.images = real.mean(0), torch.zeros(PIXELS), 0

    def update(self, outputs: Tensor, batch: Batch) -> None:
        self.total += outputs.sum(0)
        self.images += len(outputs)

    def compute(self) -> dict[str, float]:
        return {"distance": float((self.total / self.images - self.mean).norm())}


@dataclasses.dataclass(eq=False, kw_only=True)
class Adversary(Method):
    """Train a critic on each batch, then let it judge what the student makes.

    Goodfellow et al.: "Generative Adversarial Nets", NIPS 2014, with the loss that doesn't saturate.
    """

    key = "adversary"

    @hookimpl
    def players(self, stage: Stage) -> list[Player]:
        """Recruit the critic; this method calls it, batches don't go to it."""
        return [stage.recruit("critic", ModelSpec(key="critic"), plays=False)]

    @hookimpl
    def before_step(self, stage: Stage, batch: Batch) -> None:
        """Take one step of the critic."""
        critic, task = stage.players["critic"], stage.task
        assert isinstance(task, Generation)
        with torch.no_grad():
            made = task.outputs(stage.student.module, batch)
        real = task.real(batch.size)
        wrong = nn.functional.softplus(-critic.module(real)) + nn.functional.softplus(critic.module(made))
        stage.backward(critic, {"critic": wrong.mean()})
        stage.update(critic)

    @hookimpl
    def loss_terms(self, stage: Stage, outputs: Mapping[str, Outputs], player: Player) -> dict[str, Tensor]:
        """Return how little the critic is fooled; the critic gets no gradient of it."""
        critic = stage.players["critic"].module
        still = {name: parameter.detach() for name, parameter in critic.named_parameters()}
        said = functional_call(critic, still, (outputs[player.name].tree,))
        return {"fooled": nn.functional.softplus(-said).mean()}


def build(facts: TaskFacts, name: str) -> nn.Module:
    """Build the generator."""
    return nn.Sequential(nn.Linear(facts.size, 32), nn.ReLU(), nn.Linear(32, facts.outputs), nn.Sigmoid())


def build_critic(facts: TaskFacts, name: str) -> nn.Module:
    """Build the critic: one number for each image."""
    return nn.Sequential(nn.Linear(facts.outputs, 32), nn.LeakyReLU(0.2), nn.Linear(32, 1))
