"""Searches whose points optuna's samplers draw: at random, by tree-structured Parzen estimators, by evolution."""

from __future__ import annotations

import dataclasses
import functools
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import optuna
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from condensery import UsageError
from condensery.recipe import derive_seed
from condensery.run import Parameter, Proposal, Search, Trial

TRIES = 1000
"""Points that are drawn until one meets the conditions of the space."""
ENDS = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}


@dataclasses.dataclass(eq=False, kw_only=True)
class Drawn(Search):
    """Draws each point with a sampler of optuna, which is told of all trials before.

    The sampler is new each time, its seed made of the search's own and of how many trials there are: a search that was
    killed draws what it would have drawn. What a sampler keeps with a trial is the trial's notes.
    """

    @abstractmethod
    def sampler(self, seed: int) -> BaseSampler:
        """Return a new sampler."""

    def propose(self, history: Sequence[Trial]) -> Proposal:
        """Draw a point that meets the conditions.

        :raises UsageError: if none is found.
        """
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        sampler = self.sampler(derive_seed("search", self.seed, len(history)) % 2**32)
        study = optuna.create_study(directions=list(self.space.objectives.values()), sampler=sampler)
        study.add_trials([self._told(trial) for trial in history])

        for _ in range(TRIES):
            drawn = study.ask()
            point = self.space.point(functools.partial(suggested, drawn))
            if self.space.meets(point):
                return Proposal(point, notes=study.trials[-1].system_attrs)
            study.tell(drawn, state=TrialState.FAIL)
        raise UsageError(f"no point of the space meets {' and '.join(self.space.requires)}; {TRIES} were drawn")

    def _told(self, trial: Trial) -> FrozenTrial:
        """Return a trial as optuna knows it."""
        parameters = {path: self.space.parameters[path] for path in trial.overrides}
        return create_trial(
            state=ENDS[trial.state],
            values=trial.values or None,
            params={path: parameters[path].encoded(value) for path, value in trial.overrides.items()},
            distributions={path: parameter.distribution() for path, parameter in parameters.items()},
            system_attrs=dict(trial.notes),
            intermediate_values=dict(trial.epochs),
            constraints=dict(trial.excess),
        )


def suggested(trial: optuna.Trial, path: str, one: Parameter) -> Any:
    """Return the value that optuna suggests for one parameter."""
    if one.choice is not None:
        return one.decoded(trial.suggest_categorical(path, list(map(one.encoded, one.choice))))
    suggest: Any = trial.suggest_int if one.whole else trial.suggest_float
    return suggest(path, one.low, one.high, step=one.step, log=one.log)


@dataclasses.dataclass(eq=False, kw_only=True)
class RandomSearch(Drawn):
    """Draws points that know nothing of each other."""

    key = "random"

    def sampler(self, seed: int) -> BaseSampler:
        """Return optuna's."""
        return RandomSampler(seed=seed)


@dataclasses.dataclass(eq=False, kw_only=True)
class TreeParzenSearch(Drawn):
    """Draws where good points were dense and bad ones were not.

    Bergstra, Bardenet, Bengio, Kégl: "Algorithms for Hyper-Parameter Optimization", NIPS 2011.

    :param startup: points that are drawn at random first.
    """

    key = "tpe"
    startup: int = 10

    def __post_init__(self) -> None:
        """Refuse a number that is none."""
        if self.startup < 1:
            raise UsageError(f"{self.key}.startup must be >= 1, got {self.startup}")

    def sampler(self, seed: int) -> BaseSampler:
        """Return optuna's."""
        return TPESampler(seed=seed, n_startup_trials=self.startup)


@dataclasses.dataclass(eq=False, kw_only=True)
class EvolutionarySearch(Drawn):
    """Crosses and mutates the points that survive, by fronts of all objectives.

    Deb, Pratap, Agarwal, Meyarivan: "A fast and elitist multiobjective genetic algorithm: NSGA-II", IEEE Transactions
    on Evolutionary Computation 6(2), 2002.

    :param population: trials of a generation.
    """

    key = "nsga2"
    population: int = 16

    def __post_init__(self) -> None:
        """Refuse a population that has nobody to cross with."""
        if self.population < 2:
            raise UsageError(f"{self.key}.population must be >= 2, got {self.population}")

    def sampler(self, seed: int) -> BaseSampler:
        """Return optuna's."""
        return NSGAIISampler(seed=seed, population_size=self.population)
