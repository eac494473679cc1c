"""Random search, TPE and evolution: what they draw, that they learn, and that a kill changes nothing."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from condensery import Registry, UsageError
from condensery.run import Budget, Ongoing, Space, Trial, TrialStore, best_trials, build_search, run_search

REGISTRY = Registry.open()
KINDS: list[dict[str, Any]] = [{"key": "random"}, {"key": "tpe", "startup": 5}, {"key": "nsga2", "population": 4}]
PARAMETERS: dict[str, Any] = {
    "lr": {"low": 1e-4, "high": 1.0, "log": True},
    "width": {"low": 1, "high": 8, "step": 1, "name": "width"},
    "kind": ["a", "b", None, [1, 2]],
    "depth": {"low": 0.0, "high": 4.0, "when": {"kind": ["a", "b"]}, "name": "depth"},
}
SPACE = Space.model_validate({"parameters": PARAMETERS, "objectives": {"error": "minimize"}})
PLANE = {"x": {"low": -5.0, "high": 5.0}, "y": {"low": -5.0, "high": 5.0}}


def error_of(overrides: Mapping[str, Any], budget: Budget, trial: Ongoing) -> dict[str, Any]:
    """A bowl whose lowest point, 0, is off the middle."""
    return {"error": (overrides["x"] - 1.5) ** 2 + (overrides["y"] + 2.5) ** 2, "size": overrides["x"]}


def constant(overrides: Mapping[str, Any], budget: Budget, trial: Ongoing) -> dict[str, Any]:
    return {"error": float(trial.number % 3)}


def searched(
    spec: Mapping[str, Any], space: Space, evaluate: Any, trials: int, seed: int = 0, path: Path | None = None
) -> list[Trial]:
    return run_search(build_search(spec, space, seed, REGISTRY), evaluate, TrialStore(path, space), trials)


@pytest.mark.parametrize("spec", KINDS, ids=str)
def test_points_are_of_the_space_and_depend_on_the_seed(spec: dict[str, Any]) -> None:
    found = searched(spec, SPACE, constant, 12)
    assert all(SPACE.problem(trial.overrides) is None for trial in found)
    assert {"depth" in trial.overrides for trial in found} == {True, False}
    assert len({str(trial.overrides) for trial in found}) > 8
    again, other = (searched(spec, SPACE, constant, 12, seed) for seed in (0, 1))
    assert again == found
    assert [t.overrides for t in other] != [t.overrides for t in found]


@pytest.mark.parametrize("spec", KINDS, ids=str)
def test_a_killed_search_draws_what_it_would_have_drawn(spec: dict[str, Any], tmp_path: Path) -> None:
    whole = searched(spec, SPACE, constant, 12)
    for trials in (1, 7, 10, 12):
        found = searched(spec, SPACE, constant, trials, path=tmp_path / "trials.jsonl")
    assert found == whole


@pytest.mark.parametrize("spec", KINDS, ids=str)
def test_conditions_are_met(spec: dict[str, Any]) -> None:
    def products(space: Space) -> list[float]:
        drawn = [trial.overrides for trial in searched(spec, space, constant, 12)]
        return [point["width"] * point["depth"] for point in drawn if "depth" in point]

    assert max(products(SPACE)) > 8
    met = products(SPACE.model_copy(update={"requires": ["width * depth <= 8"]}))
    assert met
    assert max(met) <= 8

    never = SPACE.model_copy(update={"requires": ["width > 9"]})
    with pytest.raises(UsageError, match="no point of the space meets width > 9"):
        searched(spec, never, constant, 1)


def test_tpe_told_the_direction_beats_random_on_an_error() -> None:
    def lowest(spec: Mapping[str, Any], direction: str, sign: int, seeds: int = 5) -> list[float]:
        space = Space.model_validate({"parameters": PLANE, "objectives": {"error": direction}})

        def evaluate(overrides: Mapping[str, Any], budget: Budget, trial: Ongoing) -> dict[str, Any]:
            return {"error": sign * error_of(overrides, budget, trial)["error"]}

        found = [searched(spec, space, evaluate, 40, seed) for seed in range(seeds)]
        return [sign * best_trials(space, trials)[0].values[0] for trials in found]

    tpe, random = (lowest({"key": key}, "minimize", 1) for key in ("tpe", "random"))
    assert statistics.median(tpe) < statistics.median(random) / 2
    assert sum(a < b for a, b in zip(tpe, random, strict=True)) >= 4
    # The same the other way round: it is the direction that is heeded, not the sign.
    assert lowest({"key": "tpe"}, "maximize", -1, seeds=1) == pytest.approx(tpe[:1])


def test_evolution_gets_better_over_the_generations() -> None:
    space = Space.model_validate({"parameters": PLANE, "objectives": {"error": "minimize"}})
    found = searched({"key": "nsga2", "population": 8}, space, error_of, 64)
    assert [t.notes["NSGAIISampler:generation"] for t in found] == [n // 8 for n in range(64)]
    first, last = ([t.values[0] for t in found[part]] for part in (slice(0, 8), slice(-8, None)))
    assert statistics.median(last) < statistics.median(first) / 4


@pytest.mark.parametrize("key", ["tpe", "nsga2"])
def test_limits_are_learnt(key: str) -> None:
    """The lowest error lies at x = 1.5, which the limit forbids: only a search that knows of it stays away."""

    def kept(limits: Mapping[str, Any]) -> int:
        space = Space.model_validate({"parameters": PLANE, "objectives": {"error": "minimize"}, "limits": limits})
        found = searched({"key": key, **({"population": 8} if key == "nsga2" else {})}, space, error_of, 48)
        return sum(trial.overrides["x"] <= -3 for trial in found[-16:])

    assert kept({}) < 3
    assert kept({"size": {"at_most": -3.0}}) > 5


def test_failed_and_pruned_trials_are_told() -> None:
    def evaluate(overrides: Mapping[str, Any], budget: Budget, trial: Ongoing) -> dict[str, Any]:
        if trial.number % 3 == 0:
            raise UsageError("no")
        return constant(overrides, budget, trial)

    for spec in KINDS:
        found = searched(spec, SPACE, evaluate, 10)
        assert [t.state for t in found] == ["failed" if n % 3 == 0 else "complete" for n in range(10)]
        pruned = [dataclasses.replace(t, state="pruned", epochs={1: 0.5}) if t.number == 3 else t for t in found]
        proposal = build_search(spec, SPACE, 0, REGISTRY).propose(pruned)
        assert proposal is not None
        assert SPACE.problem(proposal.overrides) is None


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"key": "tpee"}, "unknown search 'tpee'; did you mean 'tpe'"),
        ({"key": "tpe", "start": 3}, "tpe: unknown hyper-parameter 'start'; did you mean 'startup'"),
        ({"key": "tpe", "startup": 0.5}, "tpe.startup must be a whole number"),
        ({"key": "tpe", "startup": 0}, "tpe.startup must be >= 1"),
        ({"key": "nsga2", "population": 1}, "nsga2.population must be >= 2"),
        ({"key": "random", "seed": 3}, "unknown hyper-parameter 'seed'"),
    ],
)
def test_settings_are_checked(spec: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        build_search(spec, SPACE, 0, REGISTRY)
