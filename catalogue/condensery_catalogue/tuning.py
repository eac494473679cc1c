"""Each arm at its own best settings, chosen from one small grid on held-out training data, so that none is favoured.

A rate that was picked for the method makes its baseline look worse than it is, and one picked on the test split makes
both look better.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from condensery.contract import Registry
from condensery.errors import NonFiniteLoss, UsageError
from condensery.measure import evaluate
from condensery.recipe import DataSpec, Recipe, flat
from condensery.storage import load
from condensery.tasks import Subset, Task, build_task

Values = Mapping[str, Any]
"""Settings by their path in a recipe, ``train.optimizer.lr``."""


@dataclasses.dataclass(frozen=True)
class HeldOut(Subset):
    """The examples of a subset that tuning doesn't train on.

    :param kept: how many it does train on: the first that a subset of this size draws.
    """

    kept: int = 0

    def pick(self, labels: Tensor) -> Tensor:
        """Return the indices of the examples that are left, ascending.

        :param labels: int64 of shape ``(examples,)``.
        """
        whole = Subset(self.size, self.per_class, self.without)
        seen = dataclasses.replace(whole, size=self.kept).pick(labels)
        drawn = whole.pick(labels)
        return drawn[~torch.isin(drawn, seen)]


def held_out(task: Task, recipe: Recipe, examples: int) -> tuple[Recipe, HeldOut]:
    """Return a recipe that trains on all but some of its training examples, and those.

    :raises UsageError: if there are no more than these, or a stage has data of its own.
    """
    if any(stage.data is not None and stage.data.subset is not None for stage in flat(recipe.stages)):
        raise UsageError(f"{recipe.name}: a grid needs stages that share the recipe's data")
    spec = recipe.data.subset
    subset = Subset(spec.size, spec.per_class, tuple(spec.without)) if spec else Subset()
    kept = task.count("train", subset) - examples
    if kept < 1:
        raise UsageError(f"{recipe.name}: held_out {examples} leaves none of {kept + examples} training examples")

    smaller = {**(spec.model_dump() if spec else {}), "size": kept}
    data = DataSpec.model_validate({**recipe.data.model_dump(), "subset": smaller})
    held = HeldOut(subset.size, subset.per_class, subset.without, kept)
    return recipe.model_copy(update={"data": data}), held


def combinations(grid: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Return each way to take one value for each path of a grid, in its order."""
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def score(recipe: Recipe, examples: int, registry: Registry, folder: Path, run: Any) -> float | None:
    """Return the main figure on held-out examples of a net that was trained without them; ``None`` if it diverged.

    :param run: runs a recipe into a folder, or finds it finished there.
    """
    task = build_task(recipe.task, registry)
    smaller, held = held_out(task, recipe, examples)
    try:
        report = run(smaller, folder)
    except NonFiniteLoss:
        return None
    net = load(folder / report["artifact"], registry)
    return evaluate(task, net, torch.device("cpu"), "train", subset=held)[task.metrics[0].name]


def best(tried: Sequence[Mapping[str, Any]], task: Task, where: str) -> Mapping[str, Any]:
    """Return the settings with the best score; of equal ones the first.

    :param tried: ``values`` and ``score``, ``None`` where a run diverged.
    :raises UsageError: if all diverged.
    """
    sign = 1 if task.metrics[0].higher_is_better else -1
    found = [entry for entry in tried if entry["score"] is not None]
    if not found:
        raise UsageError(f"{where}: every setting of the grid diverged")
    return max(found, key=lambda entry: sign * entry["score"])["values"]  # type: ignore[no-any-return]
