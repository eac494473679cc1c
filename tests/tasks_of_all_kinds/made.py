"""What the examples of tasks share: data that are made from a seed, and one run of a recipe on them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from tests.core.helpers import offering
from torch import nn

import condensery
from condensery import Batch, Registry, Run, Task
from condensery.recipe import parse_recipe
from condensery.recipe.spelling import parse
from condensery.tasks import Split, Subset


class Made(Task):
    """A task whose examples are made when they are first asked for, and put together batch by batch."""

    holds_out = True
    sizes: ClassVar[dict[Split, int]] = {"train": 24, "test": 10}

    def __init__(self) -> None:
        self._made: dict[Split, Sequence[Any]] = {}

    @abstractmethod
    def make(self, examples: int, generator: torch.Generator) -> Sequence[Any]:
        """Return some examples, each of any kind."""

    @abstractmethod
    def batch(self, examples: Sequence[Any]) -> Batch:
        """Put some examples together, padded as far as this batch needs it."""

    def count(self, split: Split, subset: Subset | None = None) -> int:
        return len(self._pick(split, subset))

    def _pick(self, split: Split, subset: Subset | None) -> list[int]:
        subset = subset or Subset()
        if split == "validation":
            return subset.aside(self.sizes["train"]).tolist()
        return subset.pick(torch.zeros(self.sizes[split], dtype=torch.long)).tolist()

    def batches(
        self,
        split: Split,
        *,
        batch_size: int,
        seed: int = 0,
        subset: Subset | None = None,
        device: torch.device | str = "cpu",
        train: bool = False,
    ) -> Iterator[Batch]:
        home: Split = "test" if split == "test" else "train"
        if home not in self._made:
            self._made[home] = self.make(self.sizes[home], torch.Generator().manual_seed(1 + (home == "test")))

        index = self._pick(split, subset)
        if train:
            order = torch.randperm(len(index), generator=torch.Generator().manual_seed(seed)).tolist()
            index = [index[i] for i in order]
        for part in _parts(index, batch_size):
            yield self.batch([self._made[home][i] for i in part]).to(device)


def _parts(index: list[int], size: int) -> Iterator[list[int]]:
    for start in range(0, len(index), size):
        yield index[start : start + size]


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
