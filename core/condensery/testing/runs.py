"""Runs of small recipes: to their end, or killed and resumed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from condensery.contract import Method, Register, Registry, hookimpl
from condensery.measure import quick
from condensery.recipe import Recipe, fingerprint
from condensery.run import Checked, Observer, Player, Run, Stage

# With more threads, sums may be added in another order each time, and no two runs were equal bit for bit.
torch.set_num_threads(1)


_CHECKED: dict[tuple[Registry, str], Checked] = {}
"""What dry runs found, by plugins and recipe: a method is run, killed and resumed by the same one."""


@dataclasses.dataclass(eq=False, kw_only=True)
class L2Decay(Method):
    """The method that others are tried beside: an L2 penalty on the student's weights, and a count of its steps."""

    key = "l2-decay"

    strength: float = 1e-3

    @hookimpl
    def prepare(self, stage: Stage) -> None:
        """Start to count."""
        self.steps_ = 0

    @hookimpl
    def loss_terms(self, stage: Stage, player: Player) -> dict[str, Tensor]:
        """Return the sum of the squared weights, times the strength."""
        return {"l2": self.strength * torch.stack([w.latent.square().sum() for w in stage.weights()]).sum()}

    @hookimpl
    def after_step(self) -> None:
        """Count."""
        self.steps_ += 1

    @hookimpl
    def report(self) -> dict[str, float]:
        """Return the count."""
        return {"steps_count": float(self.steps_)}


class Reference:
    """The plugin that offers :class:`L2Decay`."""

    condensery_api = 1

    @hookimpl
    def register_methods(self, register: Register) -> None:
        """Offer the method."""
        register(L2Decay.key, L2Decay)


@dataclasses.dataclass(frozen=True)
class Finished:
    """A run that has ended.

    :param stage: its last one; the net that was trained is ``stage.student.module``.
    :param folder: holds the report and the artifact.
    """

    run: Run
    stage: Stage
    folder: Path
    report: Mapping[str, Any]

    @property
    def student(self) -> nn.Module:
        """The net that was trained, with all that methods left on it."""
        return self.stage.student.module


class LastStage(Observer):
    """Keeps the stage that ended last."""

    stage: Stage

    def stage_ended(self, stage: Stage) -> None:
        """Keep it."""
        self.stage = stage


class Killer(Observer):
    """Interrupts a run after the first epoch of one stage.

    :param name: of the stage.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def epoch_ended(self, stage: Stage, history: Sequence[Mapping[str, Any]]) -> None:
        """Interrupt."""
        if stage.name == self.name and len(history) == 1:
            raise KeyboardInterrupt


def play(recipe: Recipe, registry: Registry, folder: Path, *, resume: bool = False) -> Finished:
    """Run a recipe to its end."""
    last = LastStage()
    run = _run(recipe, registry, folder, last, resume=resume)
    with quick():
        report = run.execute()
    return Finished(run, last.stage, folder, report)


def play_killed(recipe: Recipe, registry: Registry, folder: Path, stage: str) -> None:
    """Kill a run after the first epoch of a stage; ``play(..., resume=True)`` goes on with it."""
    with pytest.raises(KeyboardInterrupt), quick():
        _run(recipe, registry, folder, Killer(stage)).execute()


def _run(recipe: Recipe, registry: Registry, folder: Path, observer: Observer, *, resume: bool = False) -> Run:
    """Return a run that was checked, in the process's only dry run of its recipe."""
    key = (registry, fingerprint(recipe.dump()))
    known = _CHECKED.get(key)
    run = Run(recipe, registry, out=folder, device="cpu", resume=resume, observer=observer, checked=known)
    _CHECKED[key] = run.check()
    return run
