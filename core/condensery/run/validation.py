"""What a run may look at while it goes on: the validation split. The test split is for the nets that are reported."""

from __future__ import annotations

import dataclasses
from collections.abc import Container, Sequence

import torch
from torch import nn

from condensery.contract import Registry
from condensery.errors import UsageError
from condensery.measure import Precision, evaluate
from condensery.recipe import Recipe, RoundSpec, StageSpec, TrainSpec, flat, variables
from condensery.tasks import Subset, Task

HELD_OUT = 0.1
"""Share of the training data that is held out where something asks for quality and the recipe gives no share."""


@dataclasses.dataclass(frozen=True)
class Validation:
    """The validation split of one run.

    :param share: of the training data that is held out for it; 0 where the task has a validation split of its own.
    :param batches: stop after so many, for a quick look; always the same ones.
    """

    task: Task
    device: torch.device
    share: float
    batches: int | None = None

    def quality(self, net: nn.Module, train: TrainSpec) -> dict[str, float]:
        """Return the task's metrics, evaluated as a stage trains."""
        subset = Subset(held_out=self.share) if self.share else None
        precision = precision_of(train, self.device)
        return evaluate(
            self.task, net, self.device, "validation", subset=subset, precision=precision, limit=self.batches
        )


def with_validation(recipe: Recipe, task: Task, *, asked: bool) -> Recipe:
    """Return a recipe that says which share is held out, if it or something else needs a validation split.

    :param asked: whether something beside the recipe asks for it.
    :raises UsageError: if the task neither has one nor can hold out a part of its training data.
    """
    needed = asked or _asks_quality(recipe.stages, {metric.name for metric in task.metrics})
    if needed and not recipe.validation:
        recipe = recipe.model_copy(update={"validation": HELD_OUT})
    if recipe.validation and "validation" not in task.splits and not task.holds_out:
        raise UsageError(f"task {task.key!r} has no validation split, and can't hold out a part of its training data")
    return recipe


def methods_ask(recipe: Recipe, registry: Registry) -> bool:
    """Tell whether a method of the recipe looks at quality while it runs; one that isn't there is refused elsewhere."""
    used = {item.key for stage in flat(recipe.stages) for item in stage.methods} & registry.entries["methods"].keys()
    return any(getattr(registry.load("methods", key), "asks_quality", False) for key in used)


def held_out(recipe: Recipe, task: Task) -> float:
    """Return the share of the training data that no stage trains on."""
    return 0.0 if "validation" in task.splits else recipe.validation


def precision_of(train: TrainSpec, device: torch.device) -> Precision:
    """Return how a device computes what is trained so, and evaluates it."""
    return Precision(train.autocast, train.channels_last).on(device)


def _asks_quality(items: Sequence[StageSpec | RoundSpec], metrics: Container[str]) -> bool:
    """Tell whether a round stops by one of the task's metrics."""
    for item in items:
        if isinstance(item, RoundSpec):
            if item.until and any(name in metrics for name in variables(item.until)):
                return True
            if _asks_quality(item.stages, metrics):
                return True
    return False
