"""Short runs of compositions on nets of one's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.core.helpers import offering
from torch import nn

import condensery
from condensery import Registry, Run
from condensery.errors import CondenseryError
from condensery.recipe import parse_recipe
from condensery.recipe.spelling import parse
from condensery.run import Progress
from condensery.tasks import Batch

torch.set_num_threads(1)
Build = Callable[..., nn.Module]


class Squeezed:
    """A short run of a composition on a net of one's own.

    :param make: builds the net from the task's facts; ``None`` where ``model`` is a spec of a known one.
    """

    def __init__(
        self,
        line: str,
        make: Build | None,
        folder: Path,
        *,
        model: Any = "mine",
        task: str = "digits",
        show: Progress | None = None,
    ) -> None:
        offers = {} if make is None else {"mine": lambda facts, name: make(facts)}
        self.registry = Registry.open([("given", offering(models=offers))])
        train = {"epochs": 1, "max_steps": 3, "batch_size": 32, "optimizer": {"lr": 0.05}}
        data = {"model": model, "task": task, "base": "none", "train": train, "stages": parse(line)}
        self.run = Run(parse_recipe(data), self.registry, out=folder, device="cpu", show=show)
        self.report = self.run.execute()
        self.net = condensery.load(folder / "artifact.safetensors", self.registry)

    def stage(self, number: int = -1) -> Mapping[str, Any]:
        """Return what a stage came to."""
        found: Mapping[str, Any] = self.report["stages"][number]
        return found

    def outputs_are_kept(self) -> bool:
        """Tell whether the loaded net gives the baked net's outputs, bit for bit; these differ between examples."""
        assert self.run.baked is not None
        batch = Batch(self.run.task.example(4))
        with torch.no_grad():
            want, got = (self.run.task.outputs(net, batch) for net in (self.run.baked.net, self.net))
        assert bool(want.isfinite().all())
        assert bool((want != want[0]).any())
        return torch.equal(want, got)


def zeros(net: nn.Module) -> float:
    """Return the share of zeros among a net's parameters."""
    return sum(int((p == 0).sum()) for p in net.parameters()) / sum(p.numel() for p in net.parameters())


def refused(line: str, make: Build, folder: Path) -> str:
    """Return the one line with which a composition is refused before anything is written."""
    with pytest.raises(CondenseryError) as found:
        Squeezed(line, make, folder)
    assert not folder.exists()
    assert "\n" not in str(found.value)
    return str(found.value)
