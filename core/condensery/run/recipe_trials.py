"""Trials of a search over a recipe: each is a run of its own, scored on the validation split."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from condensery.contract import Registry
from condensery.measure import quick
from condensery.recipe import Recipe, flat, parse_recipe, set_values
from condensery.run.engine import Run
from condensery.run.folder import plain
from condensery.run.progress import Observer, Progress
from condensery.run.search import Budget, Ongoing, Trial
from condensery.run.stage import Stage

FOLDER = "folder"
"""Where a trial's report says which folder holds its run, seen from that of the search."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecipeTrials:
    """Evaluates points of a space over one recipe: ``out/trials/<number>`` is the folder of a trial's run.

    A trial that was killed goes on where its run was stopped.

    :param recipe: plain data, over which a trial's overrides are laid.
    :param out: folder of the search.
    """

    recipe: Mapping[str, Any]
    registry: Registry
    out: Path
    device: str = "auto"
    show: Progress | None = None

    def recipe_of(self, overrides: Mapping[str, Any], budget: Budget = "full", start: Trial | None = None) -> Recipe:
        """Return the recipe of one point.

        :param start: goes on from this trial's net.
        :raises UsageError: for an override that doesn't fit the recipe.
        """
        values = dict(overrides)
        if start is not None and start.report is not None:
            artifact = self.out / start.report[FOLDER] / start.report["artifact"]
            values |= {"model.weights": str(artifact), "base": "none"}

        recipe = parse_recipe(set_values(self.recipe, values))
        if budget == "quick":
            for stage in flat(recipe.stages):
                stage.epochs = 0
        return recipe

    def check(self, overrides: Mapping[str, Any], budget: Budget) -> None:
        """Run the recipe of a point dry.

        :raises CondenseryError: with one line; nothing was trained or written.
        """
        self._run(self.recipe_of(overrides, budget), budget, self.out / "trials", Observer()).check()

    def __call__(self, overrides: Mapping[str, Any], budget: Budget, trial: Ongoing) -> dict[str, Any]:
        """Run one trial and return its report.

        :raises Pruned: if the trial isn't worth going on with.
        :raises CondenseryError: as a run does.
        """
        folder = Path("trials", str(trial.number))
        watch = _Watch(trial)
        watch.run = run = self._run(self.recipe_of(overrides, budget, trial.start), budget, self.out / folder, watch)
        with quick() if budget == "quick" else contextlib.nullcontext():
            report = run.execute()
        return {**json.loads(json.dumps(report, default=plain)), FOLDER: folder.as_posix()}

    def _run(self, recipe: Recipe, budget: Budget, folder: Path, observer: Observer) -> Run:
        return Run(
            recipe,
            self.registry,
            out=folder,
            device=self.device,
            resume=folder.is_dir(),
            show=self.show,
            observer=observer,
            budget=budget,
        )


class _Watch(Observer):
    """Has each epoch measured on validation, and tells the trial."""

    asks_quality = True
    run: Run

    def __init__(self, trial: Ongoing) -> None:
        self.trial = trial

    def epoch_ended(self, stage: Stage, history: Sequence[Mapping[str, Any]]) -> None:
        """Tell what was measured, unless a base is trained: that comes from the cache the next time."""
        if stage.name.partition(":")[0] != "base":
            before = sum(done["epochs"] for done in self.run.stages)
            self.trial.epoch(before + stage.epoch + 1, {"validation": history[-1]["quality"]})
