"""The search contract: an outer loop that proposes overrides, has them run, and learns from the reports."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from condensery.errors import CondenseryError, UsageError

Budget = Literal["full", "quick"]
"""``quick``: no training, a small fixed subset."""


@dataclasses.dataclass(frozen=True)
class Choice:
    """One of some values."""

    values: tuple[Any, ...]

    def sample(self, rng: random.Random) -> Any:
        """Draw a value."""
        return rng.choice(self.values)


@dataclasses.dataclass(frozen=True)
class Uniform:
    """A number between two bounds; ``log`` draws its logarithm evenly."""

    low: float
    high: float
    log: bool = False

    def sample(self, rng: random.Random) -> float:
        """Draw a value."""
        if self.log:
            return math.exp(rng.uniform(math.log(self.low), math.log(self.high)))
        return rng.uniform(self.low, self.high)


@dataclasses.dataclass(frozen=True)
class Integer:
    """A whole number from ``low`` to ``high``, both included."""

    low: int
    high: int

    def sample(self, rng: random.Random) -> int:
        """Draw a value."""
        return rng.randint(self.low, self.high)


Space = Mapping[str, Choice | Uniform | Integer]
"""What may be chosen, by override path: ``{"stages.0.magnitude.sparsity": Uniform(0.5, 0.9)}``."""


@dataclasses.dataclass(frozen=True)
class Trial:
    """One evaluation: what was overridden, the report, its score (higher is better), or what went wrong."""

    number: int
    overrides: dict[str, Any]
    budget: Budget
    score: float | None = None
    report: dict[str, Any] | None = None
    error: str | None = None


class Search(ABC):
    """Proposes what to try next.

    :param space: what may be chosen.
    :param seed: of its own draws.
    """

    key: ClassVar[str] = ""

    def __init__(self, space: Space, seed: int = 0) -> None:
        self.space, self.seed = dict(sorted(space.items())), seed

    @abstractmethod
    def propose(self, history: Sequence[Trial]) -> dict[str, Any]:
        """Return the overrides of the next trial; depends on the seed and the history alone."""


class RandomSearch(Search):
    """Draws each trial by itself."""

    key = "random"

    def propose(self, history: Sequence[Trial]) -> dict[str, Any]:
        """Return a draw that depends on the seed and the trial's number."""
        rng = random.Random(f"{self.seed}/{len(history)}")  # noqa: S311  (not for secrets)
        return {name: options.sample(rng) for name, options in self.space.items()}


class TrialStore:
    """Trials in a file of JSON lines; one that was cut off while it was written is dropped."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self) -> list[Trial]:
        """Return the trials stored so far.

        :raises UsageError: if a line other than the last is damaged.
        """
        if not self.path.is_file():
            return []
        whole = self.path.read_bytes()
        lines = whole.split(b"\n")
        trials = []
        for number, line in enumerate(lines[:-1]):
            try:
                trials.append(Trial(**json.loads(line)))
            except (ValueError, TypeError):
                raise UsageError(f"{self.path}: line {number + 1} is damaged") from None
        if lines[-1]:
            with self.path.open("r+b") as handle:
                handle.truncate(len(whole) - len(lines[-1]))
        return trials

    def append(self, trial: Trial) -> None:
        """Store one trial; it is on the disk when this returns."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as handle:
            handle.write(json.dumps(dataclasses.asdict(trial)) + "\n")
            handle.flush()
            os.fsync(handle.fileno())


def run_search(
    search: Search,
    evaluate: Callable[[dict[str, Any], Budget], Mapping[str, Any]],
    score: Callable[[Mapping[str, Any]], float],
    store: TrialStore,
    trials: int,
    budget: Budget = "full",
) -> Trial:
    """Run a search up to a number of trials and return the best one. Goes on with what the store holds.

    :param evaluate: runs a recipe with overrides; its ``CondenseryError`` is stored and the search goes on.
    :param score: of a report; higher is better.
    :raises UsageError: if every trial failed.
    """
    history = store.load()
    while len(history) < trials:
        overrides = search.propose(history)
        trial = Trial(len(history), overrides, budget)
        try:
            report = dict(evaluate(overrides, budget))
            trial = dataclasses.replace(trial, report=report, score=score(report))
        except CondenseryError as error:
            trial = dataclasses.replace(trial, error=str(error))
        store.append(trial)
        history.append(trial)
    good = [t for t in history if t.score is not None and math.isfinite(t.score)]
    if not good:
        raise UsageError(
            f"search: all {len(history)} trials failed; the first: {history[0].error}"
            if history
            else "search: no trials"
        )
    return max(good, key=lambda t: (t.score if t.score is not None else -math.inf, -t.number))
