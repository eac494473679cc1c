"""How long a recipe takes on this machine, from a few timed steps of it."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

from condensery.contract import Registry
from condensery.files import cached_json, write_json
from condensery.recipe import Recipe, RoundSpec, StageSpec, TrainSpec, fingerprint, flat
from condensery.run import Progress, Run

STEPS = 6
"""Timed ones; the first few are slow, so that the median counts."""
OVERHEAD = 1.25
"""What measuring, data and checkpoints add to the steps; a guess that only has to put recipes in order."""


class Enough(Exception):
    """Ends a run that has taken enough steps to be timed."""


class Stopwatch(Progress):
    """Times the steps of a run's first training and then ends it.

    After it, ``steps`` holds the number of steps of that training, ``of_base`` whether it was the base's, which is not
    played where the cache has it, and ``step_s`` the median seconds of one.
    """

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.steps = 0
        self.of_base = False
        self._at: list[float] = []

    @property
    def step_s(self) -> float:
        """Median seconds from one step to the next, 0 where nothing trained."""
        pauses = [b - a for a, b in zip(self._at, self._at[1:], strict=False)]
        return statistics.median(pauses) if pauses else 0.0

    def start(self, title: str, steps: int) -> None:
        """Note how many steps the first training has; a second one is not begun."""
        if self.steps:
            raise Enough
        self.steps, self.of_base = steps, title == "base"

    def advance(self, steps: int = 1) -> None:
        """Note the time of a step."""
        self._at += [time.monotonic()] * min(steps, 1)
        if len(self._at) > STEPS:
            raise Enough


class Estimates:
    """Seconds by recipe, kept in a file, because timing takes a few seconds itself.

    :param path: of the file, which is of one device.
    """

    def __init__(self, path: Path, registry: Registry, device: str) -> None:
        self.path, self.registry, self.device = path, registry, device
        self._known: dict[str, float] = cached_json(path) or {}

    def seconds(self, recipe: Recipe) -> float:
        """Return how long a recipe takes, its base training included.

        :raises CondenseryError: what keeps the recipe from starting, such as data that are missing.
        """
        key = fingerprint([recipe.dump(), self.device])
        if key not in self._known:
            self._known[key] = self._timed(recipe)
            write_json(self.path, self._known)
        return self._known[key]

    def _timed(self, recipe: Recipe) -> float:
        started, watch = time.monotonic(), Stopwatch()
        with tempfile.TemporaryDirectory() as folder:
            try:
                Run(recipe, self.registry, out=Path(folder) / "run", device=self.device, show=watch).execute()
            except Enough:
                pass
            else:
                return time.monotonic() - started
        return OVERHEAD * watch.step_s * self._steps(recipe, watch)

    def _steps(self, recipe: Recipe, watch: Stopwatch) -> float:
        """Return the steps of a whole recipe, from those of its first training: all trainings have as long epochs."""
        trains = [(recipe.train_of(stage), passes) for stage, passes in _passes(recipe.stages, 1)]
        epochs = sum(train.epochs * passes for train, passes in trains)
        if watch.of_base:
            return watch.steps * (1 + epochs / max(1, self._base_epochs(recipe)))
        begun = next((train for train, _ in trains if train.epochs), TrainSpec())
        return watch.steps * epochs / max(1, begun.epochs)

    def _base_epochs(self, recipe: Recipe) -> int:
        base = {**self.registry.load("tasks", recipe.task.key).base, **({} if recipe.base == "none" else recipe.base)}
        return int(base.get("epochs", 1))


def _passes(items: list[StageSpec | RoundSpec], passes: int) -> list[tuple[StageSpec, int]]:
    """Return each stage with how often it is played, at most."""
    found: list[tuple[StageSpec, int]] = []
    for item in items:
        if isinstance(item, RoundSpec):
            found += [(stage, passes * item.repeat) for stage in flat(item.stages)]
        else:
            found.append((item, passes))
    return found
