"""Core's own implementations of the first-result hooks, and what they are made of."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from condensery.contract import hookimpl
from condensery.recipe import ScheduleSpec
from condensery.tasks import Batch, Task

if TYPE_CHECKING:
    from condensery.run.players import Player
    from condensery.run.stage import Stage

OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "adamax": torch.optim.Adamax,
    "rmsprop": torch.optim.RMSprop,
}


class Defaults:
    """What core does where no method of the stage says otherwise."""

    @hookimpl(trylast=True)
    def optimizer(self, stage: Stage, player: Player, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Build the optimizer that the recipe names, for the player or for the stage."""
        spec = player.optimizer_spec or stage.train.optimizer
        options = {name: value for name, value in spec.options.items() if value is not None}
        return OPTIMIZERS[spec.name](groups, lr=spec.lr, weight_decay=spec.weight_decay, **options)  # type: ignore[call-arg]

    @hookimpl(trylast=True)
    def batches(self, stage: Stage) -> Iterable[Batch]:
        """Take the task's training data."""
        return stage.task_batches()

    @hookimpl(trylast=True)
    def training_step(self, stage: Stage, batch: Batch) -> bool:
        """Take gradients and one step for each player that is due."""
        # A player may take several steps on a batch, or one on every few.
        due = {p.name: p.every[0] if stage.step % p.every[1] == 0 else 0 for p in stage.training}
        for turn in range(max(due.values(), default=0)):
            players = [p for p in stage.training if due[p.name] > turn]
            for group in [[p] for p in players] if stage.train.in_turn else [players]:
                stage.gradients(batch, group)
                for player in group:
                    stage.update(player)
        return True


def due_steps(stage: Stage, parts: int) -> list[int]:
    """Return before which batches of a stage the second and later of some evenly spread parts are due.

    Part i + 1 of n is due after i/n of the batches; all are, before the last one.
    """
    total = max(1, stage.epochs * stage.steps_per_epoch)
    return [min(round(total * i / parts), total - 1) for i in range(1, parts)]


def rate_factor(schedule: ScheduleSpec, progress: float) -> float:
    """Return the learning-rate factor at a moment of a stage.

    :param progress: share of the stage's steps that are done, 0 to 1.
    """
    if progress < schedule.warmup:
        return max(progress, 1e-3) / schedule.warmup
    if schedule.name == "constant":
        return 1.0
    if schedule.name == "step":
        return float(schedule.gamma ** sum(progress >= m for m in schedule.milestones))

    rest = (progress - schedule.warmup) / (1 - schedule.warmup)
    if schedule.name == "exponential":
        return float(schedule.gamma**rest)
    return 0.5 * (1 + math.cos(math.pi * rest)) if schedule.name == "cosine" else 1 - rest


def parse_every(text: str) -> tuple[int, int]:
    """Turn ``"3"`` or ``"1/5"`` into ``(steps, batches)``."""
    steps, _, batches = text.partition("/")
    return int(steps), int(batches or 1)


def weighted(task: Task, parts: Sequence[Batch]) -> list[tuple[Batch, float]]:
    """Return the parts of one step with their shares of it, by what counts in them; those in which nothing does go.

    Each part's loss is a mean over what counts in it, so that these shares give the mean over the whole.
    """
    if len(parts) == 1:
        return [(parts[0], 1.0)]
    weights = [task.weight(part) for part in parts]
    total = sum(weights)
    return [(part, weight / total) for part, weight in zip(parts, weights, strict=True) if weight]


def shares(batch: Batch, parts: int) -> list[Batch]:
    """Split a batch into equal parts; the first ones are larger by one where it doesn't divide."""
    if parts == 1:
        return [batch]
    size = batch.size
    parts = min(parts, size)
    bounds = [size * i // parts for i in range(parts + 1)]
    return [batch.part(a, b) for a, b in itertools.pairwise(bounds)]


def clip(parameters: Iterable[nn.Parameter], limit: float | None) -> None:
    """Shorten the gradient of parameters together to a norm, if it is longer; ``None``: it may have any."""
    if limit is not None:
        nn.utils.clip_grad_norm_([p for p in parameters if p.requires_grad], limit)


@contextlib.contextmanager
def without_gradient(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Keep parameters out of the graph that is made meanwhile."""
    held = [parameter for parameter in parameters if parameter.requires_grad]
    for parameter in held:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in held:
            parameter.requires_grad_(True)
