"""How long a recipe takes on this machine, from a few timed steps of it."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from condensery.contract import Registry
from condensery.files import cached_json, write_json
from condensery.recipe import Recipe, RoundSpec, StageSpec, TrainSpec, fingerprint
from condensery.run import Progress, Run

STEPS = 6
"""Timed ones; the first few are slow, so that the median counts."""
OVERHEAD = 1.25
"""What measuring, data and checkpoints add to the steps; a guess that only has to put recipes in order."""
LONG = 100
"""Steps from which on a user is told how long they will take."""
MOST = 1000
"""Passes of a round that are counted."""


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
        return OVERHEAD * watch.step_s * all_steps(recipe, self.registry, watch.steps, of_base=watch.of_base)


class Foretold(Progress):
    """Says, as the work begins, how many steps it has in all, and after a few timed ones how long they will take.

    :param recipes: that are to be played, the first one first.
    """

    def __init__(self, recipes: Sequence[Recipe], registry: Registry, *, quiet: bool = False) -> None:
        super().__init__(quiet=quiet)
        self.recipes, self.registry = recipes, registry
        self._total = 0.0
        self._watch: Stopwatch | None = None

    def start(self, title: str, steps: int) -> None:
        """Begin a stage; with the first one that trains, all steps are counted."""
        if steps and not self._total:
            of_base = title == "base"
            self._total = sum(all_steps(recipe, self.registry, steps, of_base=of_base) for recipe in self.recipes)
            if self._total >= LONG:
                self.line(f"about {self._total:,.0f} steps in all; a few of them tell how long they take")
                self._watch = Stopwatch()
        super().start(title, steps)

    def advance(self, steps: int = 1) -> None:
        """Count steps, and time the first ones."""
        super().advance(steps)
        if self._watch is not None:
            try:
                self._watch.advance(steps)
            except Enough:
                took = OVERHEAD * self._watch.step_s * self._total
                words = f"{took / 60:,.0f} minutes" if took < 7200 else f"{took / 3600:,.1f} hours"
                self.line(f"about {words} in all" if took >= 60 else "less than a minute in all")
                self._watch = None


def all_steps(recipe: Recipe, registry: Registry, first: int, *, of_base: bool) -> float:
    """Return the steps of a whole recipe, from those of its first training: all trainings have as long epochs.

    :param of_base: whether that is the base's.
    """
    trains = [recipe.train_of(stage) for stage in _played(recipe.stages)]
    epochs = sum(train.epochs for train in trains)
    if of_base:
        base = {**registry.load("tasks", recipe.task.key).base, **({} if recipe.base == "none" else recipe.base)}
        return first * (1 + epochs / max(1, int(base.get("epochs", 1))))
    begun = next((train for train in trains if train.epochs), TrainSpec())
    return first * epochs / max(1, begun.epochs)


def _played(items: Sequence[StageSpec | RoundSpec], passes: int = 1) -> Iterator[StageSpec]:
    """Yield each stage as it is in each of its passes, at most; of a round over layers nobody knows how many."""
    for number in range(min(passes, MOST)):
        for item in items:
            if isinstance(item, StageSpec):
                yield item.in_pass(number, passes)
            elif not item.over:
                yield from _played(item.stages, item.repeat)
