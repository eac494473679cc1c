"""Searches: outer loops over recipes, which propose settings, see them evaluated, and learn from what came of them.

What optuna can do, it does: it draws points, keeps trials in its journal, and stops those that are not worth going on
with. Loads neither torch nor optuna.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from condensery.contract import Registry, configured
from condensery.errors import ArtifactError, CondenseryError, FileError, PluginError
from condensery.run.space import Space, figure

if TYPE_CHECKING:
    from condensery.run.trial_store import TrialStore

Budget = Literal["full", "quick"]
"""``full``: a normal run; ``quick``: no training, scored on a small fixed part of the validation split."""
State = Literal["running", "complete", "pruned", "failed"]
STARTS = 3
"""A trial that has been killed this often is given up: it may be what kills the process."""


@dataclasses.dataclass(frozen=True)
class Proposal:
    """What a search wants to be evaluated.

    :param overrides: a point of the space, values by path.
    :param notes: the search's own, as plain JSON data: the trial keeps them, also over a resume.
    :param start: number of a complete trial from whose net this one goes on; by default from the recipe's model.
    """

    overrides: Mapping[str, Any]
    notes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    start: int | None = None


@dataclasses.dataclass(frozen=True)
class Trial(Proposal):
    """One evaluation, as it is stored.

    :param state: ``running`` also where the process was killed, until the search goes on.
    :param epochs: what was measured while it ran, by epoch; only where trials may be pruned.
    :param report: what the run reported, if it is complete.
    :param values: the number of each objective, if it is complete.
    :param excess: by how much each limit is broken, by path; 0 or less where it is kept.
    :param error: why it failed.
    :param starts: how often it was begun.
    """

    number: int = 0
    budget: Budget = "full"
    state: State = "running"
    epochs: Mapping[int, float] = dataclasses.field(default_factory=dict)
    report: Mapping[str, Any] | None = None
    values: tuple[float, ...] = ()
    excess: Mapping[str, float] = dataclasses.field(default_factory=dict)
    error: str = ""
    starts: int = 1

    @property
    def fits(self) -> bool:
        """Whether it is complete and within the limits."""
        return self.state == "complete" and all(over <= 0 for over in self.excess.values())


class Pruned(CondenseryError):
    """A trial is not worth going on with."""


@dataclasses.dataclass(frozen=True)
class Ongoing:
    """A trial that is being evaluated.

    :param start: the trial from whose net it goes on, if any.
    """

    number: int
    start: Trial | None
    store: TrialStore

    @property
    def watched(self) -> bool:
        """Whether somebody wants to know how it goes: without a pruner nobody does."""
        return self.store.prunes

    def epoch(self, number: int, report: Mapping[str, Any]) -> None:
        """Tell what was measured after an epoch.

        :param number: counted from 1 through all stages.
        :param report: what a report would say by now, such as ``{"validation": {"accuracy": 91.0}}``.
        :raises Pruned: if the trial is to end here.
        """
        if self.watched and self.store.prune(self.number, number, report):
            raise Pruned(f"after epoch {number}")


Evaluate = Callable[[Mapping[str, Any], Budget, Ongoing], Mapping[str, Any]]
"""``evaluate(overrides, budget, trial)`` -> the report of a run, plain data."""


@dataclasses.dataclass(eq=False, kw_only=True)
class Search(ABC):
    """An outer loop over a space. A subclass is a dataclass; its fields are the settings of the search.

    It keeps no state in files: when a search goes on, :meth:`observe` is called again for each stored trial, in order.
    So what it learns must depend on the seed, the trials and their notes alone, and then a search that was killed
    proposes what it would have proposed.

    :param seed: of whatever it draws.
    """

    key: ClassVar[str] = ""
    """As it is registered."""
    space: Space
    seed: int = 0

    @abstractmethod
    def propose(self, history: Sequence[Trial]) -> Proposal | None:
        """Return what to evaluate next, ``None`` where nothing is left.

        :param history: all trials that have ended, in order, failed and pruned ones too.
        """

    def observe(self, trial: Trial) -> None:  # noqa: B027  Not every search learns.
        """Learn from a trial that has ended."""


def build_search(spec: Mapping[str, Any], space: Space, seed: int, registry: Registry) -> Search:
    """Build a search from its key and settings: ``{"key": "tpe", "startup": 5}``.

    :raises UnknownKey: for an unknown search, or a setting that it doesn't have.
    :raises UsageError: for a setting with a wrong value.
    :raises PluginError: if what is registered is no search.
    """
    key = spec["key"]
    cls = registry.load("searches", key)
    if not (dataclasses.is_dataclass(cls) and isinstance(cls, type) and issubclass(cls, Search)):
        raise PluginError(f"search {key!r}: its class must be a dataclass that extends condensery.run.Search")
    settings = {name: value for name, value in spec.items() if name != "key"}
    return configured(key, cls, settings, space=space, seed=seed)


def run_search(
    search: Search,
    evaluate: Evaluate,
    store: TrialStore,
    trials: int,
    *,
    budget: Budget = "full",
    ended: Callable[[Trial], None] = lambda trial: None,
) -> list[Trial]:
    """Evaluate until this many trials have ended, those in the store included, and return them.

    Each trial is stored before it is evaluated: one that was killed is begun again when the search goes on, at most
    :data:`STARTS` times. A point that was evaluated before keeps its report. What an evaluation raises as a
    :class:`CondenseryError` is stored as its failure and doesn't stop the search, unless a file can't be written or
    read, which the next trial couldn't either.

    :param ended: is told of each trial that ends.
    :raises PluginError: if the search proposes what isn't in its space.
    :raises UsageError: if a report lacks an objective or a limit.
    """
    history = [trial for trial in store.trials() if trial.state != "running"]
    for trial in history:
        search.observe(trial)

    while len(history) < trials:
        open_ = store.again()
        if open_ is None:
            proposal = _checked(search, search.propose(tuple(history)), history)
            if proposal is None:
                break
            open_ = store.begin(proposal, budget)
        done = _evaluated(search.space, evaluate, store, open_, history)
        history.append(done)
        search.observe(done)
        ended(done)
    return history


def best_trials(space: Space, trials: Sequence[Trial]) -> list[Trial]:
    """Return the best of the trials within the limits, the earliest of equals; for several objectives, the front.

    The front holds those trials than which no other is better in one objective and as good in all.
    """
    signs = [1 if direction == "maximize" else -1 for direction in space.objectives.values()]
    fit = [trial for trial in trials if trial.fits]

    def better(one: Trial, other: Trial) -> bool:
        gains = [sign * (a - b) for sign, a, b in zip(signs, one.values, other.values, strict=True)]
        return min(gains) >= 0 and max(gains) > 0

    front = [trial for trial in fit if not any(better(other, trial) for other in fit)]
    return front[:1] if len(signs) == 1 else front


def _checked(search: Search, proposal: Proposal | None, history: Sequence[Trial]) -> Proposal | None:
    """Return a proposal that can be evaluated.

    :raises PluginError: naming the search and what is wrong.
    """
    if proposal is None:
        return None
    problem = search.space.problem(proposal.overrides)
    if proposal.start is not None and proposal.start not in {t.number for t in history if t.state == "complete"}:
        problem = f"it goes on from trial {proposal.start}, which is not complete"
    if problem:
        raise PluginError(f"search {search.key!r} proposed what can't be evaluated: {problem}")
    return proposal


def _evaluated(space: Space, evaluate: Evaluate, store: TrialStore, trial: Trial, history: Sequence[Trial]) -> Trial:
    """Evaluate one trial, store how it ended, and return it so."""
    if trial.starts > STARTS:
        return store.end(trial, "failed", error=f"its process was killed {STARTS} times")
    same = (trial.overrides, trial.start, trial.budget)
    known = next((t for t in history if t.report and (t.overrides, t.start, t.budget) == same), None)
    start = next((t for t in history if t.number == trial.start), None)

    try:
        if known is not None:
            report = known.report
        else:
            report = evaluate(trial.overrides, trial.budget, Ongoing(trial.number, start, store))
    except Pruned as error:
        return store.end(trial, "pruned", error=str(error))
    except (FileError, ArtifactError):
        raise
    except CondenseryError as error:
        return store.end(trial, "failed", error=str(error))
    except KeyboardInterrupt:
        store.stopped(trial)
        raise

    assert report is not None
    for path in (*space.objectives, *space.limits):
        number = figure(report, path)
        if not math.isfinite(number):
            return store.end(trial, "failed", error=f"{path} is {number}")
    return store.end(trial, "complete", report=report, values=space.values(report))
