"""Outer loops over recipes: a space, proposals, a store that survives an interrupt. Imports no torch.

A search proposes overrides, each is evaluated by a run, and the report is scored. What was evaluated is never
evaluated again.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

from condensery.errors import ArtifactError, CondenseryError, PluginError, UnknownKey, UsageError

Budget = Literal["full", "quick"]
"""``full``: a normal run; ``quick``: no training, scored on a small fixed subset."""
Evaluate = Callable[[Mapping[str, Any], Budget], Mapping[str, Any]]
"""``evaluate(overrides, budget)`` -> the report of a run, plain data."""


class Parameter(Protocol):
    """One dimension of a space; plugins may bring their own."""

    def sample(self, rng: random.Random) -> Any:
        """Return a value that JSON can store."""

    def contains(self, value: Any) -> bool:
        """Tell whether a value is one that could be sampled."""


@dataclasses.dataclass(frozen=True)
class Choice:
    """One of some values, each as likely."""

    values: tuple[Any, ...]

    def __post_init__(self) -> None:
        if not self.values:
            raise UsageError("a choice needs at least one value")

    def sample(self, rng: random.Random) -> Any:
        """Return one of the values."""
        return rng.choice(self.values)

    def contains(self, value: Any) -> bool:
        """Tell whether it is one of the values; ``1``, ``1.0`` and ``true`` differ."""
        return json.dumps(value, sort_keys=True) in [json.dumps(v, sort_keys=True) for v in self.values]


@dataclasses.dataclass(frozen=True)
class Uniform:
    """A number between ``low`` and ``high``, both included."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise UsageError(f"a range goes from a lower to a higher number, got {self.low} to {self.high}")

    def sample(self, rng: random.Random) -> float:
        """Return a number, all equally likely."""
        return rng.uniform(self.low, self.high)

    def contains(self, value: Any) -> bool:
        """Tell whether it is a number in the range."""
        return isinstance(value, (int, float)) and not isinstance(value, bool) and self.low <= value <= self.high


@dataclasses.dataclass(frozen=True)
class LogUniform(Uniform):
    """A number between ``low`` and ``high``, whose logarithm is uniform: for learning rates and penalties."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.low <= 0:
            raise UsageError(f"a logarithmic range starts above 0, got {self.low}")

    def sample(self, rng: random.Random) -> float:
        """Return a number, all orders of magnitude equally likely."""
        value = math.exp(rng.uniform(math.log(self.low), math.log(self.high)))
        return min(max(value, self.low), self.high)  # exp(log(x)) rounds


@dataclasses.dataclass(frozen=True)
class Integer:
    """A whole number from ``low`` to ``high``, both included."""

    low: int
    high: int

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise UsageError(f"a range goes from a lower to a higher number, got {self.low} to {self.high}")

    def sample(self, rng: random.Random) -> int:
        """Return a whole number, all equally likely."""
        return rng.randint(self.low, self.high)

    def contains(self, value: Any) -> bool:
        """Tell whether it is a whole number in the range."""
        return isinstance(value, int) and not isinstance(value, bool) and self.low <= value <= self.high


@dataclasses.dataclass(frozen=True)
class Space:
    """Parameters by the override path they set, see :mod:`condensery.recipe.overrides`. Their order doesn't matter."""

    parameters: Mapping[str, Parameter]

    def sample(self, rng: random.Random) -> dict[str, Any]:
        """Return one point: values by path."""
        return {path: self.parameters[path].sample(rng) for path in sorted(self.parameters)}

    def problem(self, overrides: Mapping[str, Any]) -> str | None:
        """Return why these overrides are no point of the space, or ``None``."""
        if overrides.keys() != self.parameters.keys():
            return f"it sets {', '.join(sorted(overrides))}, the space has {', '.join(sorted(self.parameters))}"
        outside = (p for p in sorted(overrides) if not self.parameters[p].contains(overrides[p]))
        return next((f"{path} = {overrides[path]!r} is outside {self.parameters[path]}" for path in outside), None)


@dataclasses.dataclass(frozen=True)
class Trial:
    """One evaluation.

    :param report: what the run reported, or ``None`` if it failed.
    :param score: the objective's number, or ``None`` if it failed or the number isn't finite.
    :param error: why there is no score.
    """

    number: int
    overrides: Mapping[str, Any]
    budget: Budget
    report: Mapping[str, Any] | None
    score: float | None
    error: str = ""


@dataclasses.dataclass(frozen=True)
class Objective:
    """The number of a report that is to become as high or as low as possible.

    :param path: keys from the outside in, separated by dots; keys may contain dots themselves.
    """

    path: str
    higher_is_better: bool

    def read(self, report: Mapping[str, Any]) -> float:
        """Return the number.

        :raises UnknownKey: if the report has no such key.
        :raises UsageError: if what is there is not a number.
        """
        node: Any = report
        parts = self.path.split(".")
        while parts:
            known = node if isinstance(node, Mapping) else {}
            fits = (n for n in range(len(parts), 0, -1) if ".".join(parts[:n]) in known)
            taken = next(fits, None)
            if taken is None:
                raise UnknownKey("number of the report", ".".join(parts), map(str, known), where="objective")
            node, parts = known[".".join(parts[:taken])], parts[taken:]
        if isinstance(node, bool) or not isinstance(node, (int, float)):
            raise UsageError(f"objective {self.path!r} is not a number in the report: {node!r}")
        return float(node)

    def scored(self, trial: Trial) -> Trial:
        """Return the trial with the score that its report gives."""
        if trial.report is None:
            return trial
        score = self.read(trial.report)
        if not math.isfinite(score):
            return dataclasses.replace(trial, score=None, error=f"{self.path} is {score}")
        return dataclasses.replace(trial, score=score, error="")

    def best(self, trials: Sequence[Trial]) -> Trial | None:
        """Return the trial with the best score, the earliest of equals, or ``None`` if none has a score."""
        scored = [(t.score if self.higher_is_better else -t.score, -t.number, t) for t in trials if t.score is not None]
        return max(scored, key=lambda s: s[:2])[2] if scored else None


class Search(ABC):
    """An outer loop; build it as ``Search(space, seed)``.

    :param seed: the same seed and history give the same proposals.
    """

    key: ClassVar[str] = ""
    """As it is registered."""

    def __init__(self, space: Space, seed: int = 0) -> None:
        self.space, self.seed = space, seed

    @abstractmethod
    def propose(self, history: Sequence[Trial]) -> dict[str, Any]:
        """Return the next point of the space.

        :param history: all trials so far, in order, failed ones too; after a resume, those of the run before.
        """


class RandomSearch(Search):
    """Draws each trial from the seed and its number alone, so that a resumed search proposes the same."""

    key = "random"

    def propose(self, history: Sequence[Trial]) -> dict[str, Any]:
        """Return a random point."""
        return self.space.sample(random.Random(f"{self.seed}:{len(history)}"))


class TrialStore:
    """Trials in a file of JSON lines, which survives being killed while it writes."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self) -> list[Trial]:
        """Return the trials; a last line without its end was cut off, and is dropped.

        :raises ArtifactError: naming the line that is no trial.
        """
        trials = []
        for number, line in enumerate(self._whole_lines().splitlines(), 1):
            try:
                trials.append(Trial(**json.loads(line)))
            except (ValueError, TypeError) as error:
                raise ArtifactError(f"{self.path} line {number} is no trial: {error}") from None
        return trials

    def append(self, trial: Trial) -> None:
        """Write one trial to the disk, over a line that was cut off."""
        line = json.dumps(dataclasses.asdict(trial), sort_keys=True) + "\n"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        whole = len(self._whole_lines())
        with self.path.open("ab") as file:
            file.truncate(whole)
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())

    def _whole_lines(self) -> bytes:
        content = self.path.read_bytes() if self.path.exists() else b""
        return content[: content.rfind(b"\n") + 1]


def run_search(
    search: Search,
    evaluate: Evaluate,
    store: TrialStore,
    trials: int,
    *,
    objective: Objective,
    budget: Budget = "full",
) -> Trial:
    """Evaluate until there are this many trials, those in the store included, and return the best.

    Stored reports are scored anew, so the objective may change between runs. An evaluation that raises a
    :class:`CondenseryError` is stored with the error and doesn't stop the search.

    :raises UsageError: if the store holds another budget's or another space's trials, and if no trial has a score.
    :raises UnknownKey: if a report lacks the objective; the report is stored first.
    :raises PluginError: if the search proposes what isn't in its space.
    """
    history = [objective.scored(t) for t in store.load()]
    for trial in history:
        problem = search.space.problem(trial.overrides)
        if trial.budget != budget:
            problem = f"its budget is {trial.budget!r}, not {budget!r}"
        if problem:
            raise UsageError(f"{store.path} holds another search: trial {trial.number}: {problem}; use another file")
    while len(history) < trials:
        overrides = search.propose(tuple(history))
        problem = search.space.problem(overrides)
        if problem:
            raise PluginError(f"search {search.key!r} proposed no point of its space: {problem}")
        trial = Trial(len(history), overrides, budget, None, None)
        try:
            trial = dataclasses.replace(trial, report=dict(evaluate(overrides, budget)))
        except CondenseryError as error:
            trial = dataclasses.replace(trial, error=str(error))
        try:
            trial = objective.scored(trial)
        finally:
            store.append(trial)
        history.append(trial)
    best = objective.best(history)
    if best is None:
        last = f"; the last one: {history[-1].error}" if history else ""
        raise UsageError(f"none of {len(history)} trials has a score{last}")
    return best
