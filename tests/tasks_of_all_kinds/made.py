"""What the examples of tasks share: a few data that are made from a seed, and one run of a recipe on them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.core.helpers import offering
from torch import nn

import condensery
from condensery import Registry, Run, Task
from condensery.recipe import parse_recipe
from condensery.recipe.spelling import parse
from condensery.tasks import Split
from condensery_plugins.tasks import made

FEW: dict[Split, int] = {"train": 24, "test": 10}


class Made(made.Made):
    """A task of few examples, which are made when they are first asked for."""

    sizes = FEW


def run(
    line: str, task: type[Task], build: Callable[..., nn.Module], out: Path, **changes: Any
) -> tuple[dict[str, Any], nn.Module, Run]:
    """Run a composition on a task and a net of one's own; returns the report, the net that was loaded, and the run."""
    more = changes.pop("methods", {})
    models = {"mine": build, **changes.pop("models", {})}
    registry = Registry.open([("mine", offering(tasks={task.key: task}, models=models, methods=more))])
    train = {"epochs": 2, "batch_size": 8, "optimizer": {"name": "adam", "lr": 0.01}}
    data = {"model": "mine", "task": task.key, "base": "none", "train": train, "stages": parse(line), **changes}
    job = Run(parse_recipe(data), registry, out=out, device="cpu")
    report = job.execute()
    return report, condensery.load(out / "artifact.safetensors", registry), job
