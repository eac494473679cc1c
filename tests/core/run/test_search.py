from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from condensery.errors import ArtifactError, NonFiniteLoss, PluginError, UnknownKey, UsageError
from condensery.run import (
    Budget,
    Choice,
    Integer,
    LogUniform,
    Objective,
    Parameter,
    RandomSearch,
    Search,
    Space,
    Trial,
    TrialStore,
    Uniform,
    run_search,
)

SPARSITY, BITS, LR, KIND = "stages.0.magnitude.sparsity", "stages.1.lsq.bits", "train.optimizer.lr", "model.kind"
PARAMETERS: dict[str, Parameter] = {
    SPARSITY: Uniform(0.1, 0.9),
    BITS: Integer(2, 8),
    LR: LogUniform(1e-4, 1e-1),
    KIND: Choice(("a", "b", None)),
}
SPACE = Space(PARAMETERS)
QUALITY = Objective("quality.accuracy", higher_is_better=True)


class Runs:
    """Evaluates a formula of the overrides, and remembers what it was asked."""

    def __init__(self, interrupt_at: int | None = None, fail_at: Sequence[int] = ()) -> None:
        self.asked: list[dict[str, Any]] = []
        self.budgets: set[Budget] = set()
        self.interrupt_at, self.fail_at = interrupt_at, fail_at

    def __call__(self, overrides: Mapping[str, Any], budget: Budget) -> dict[str, Any]:
        number = len(self.asked)
        if number == self.interrupt_at:
            raise KeyboardInterrupt
        self.asked.append(dict(overrides))
        self.budgets.add(budget)
        if number in self.fail_at:
            raise NonFiniteLoss(f"loss is nan in trial {number}")
        return {"quality": {"accuracy": 100 * overrides[SPARSITY] - overrides[BITS]}, "size": {"file.bytes": number}}


def search_in(
    path: Path, runs: Runs, trials: int, *, space: Space = SPACE, seed: int = 0, objective: Objective = QUALITY
) -> Trial:
    return run_search(RandomSearch(space, seed), runs, TrialStore(path), trials, objective=objective)


# ---------------------------------------------------------------- spaces


@pytest.mark.parametrize("parameter", PARAMETERS.values())
def test_samples_are_contained_and_repeat(parameter: Parameter) -> None:
    values = [parameter.sample(random.Random(i)) for i in range(200)]
    assert all(parameter.contains(v) for v in values)
    assert all(parameter.contains(json.loads(json.dumps(v))) for v in values)
    assert values == [parameter.sample(random.Random(i)) for i in range(200)]
    assert len(set(values)) > 2


@pytest.mark.parametrize(
    ("parameter", "outside"),
    [
        (Choice((1, True, "a")), [1.0, False, "b", None]),
        (Uniform(0, 1), [-0.1, 1.1, "0.5", True, math.nan, None]),
        (LogUniform(1e-3, 1), [0, 1e-4, 2.0]),
        (Integer(2, 4), [1, 5, 2.0, 3.5, True, "3"]),
    ],
)
def test_what_is_outside(parameter: Parameter, outside: list[Any]) -> None:
    assert not any(parameter.contains(v) for v in outside)


def test_distributions() -> None:
    rng = random.Random(0)
    logs = [math.log10(LogUniform(1e-4, 1e-1).sample(rng)) for _ in range(3000)]
    for low in (-4, -3, -2):  # each decade holds a third; four standard deviations are 0.034
        assert abs(sum(low <= x < low + 1 for x in logs) / 3000 - 1 / 3) < 0.035
    assert {Integer(2, 4).sample(rng) for _ in range(100)} == {2, 3, 4}
    assert {Choice(("a", "b")).sample(rng) for _ in range(100)} == {"a", "b"}


def test_a_choice_of_lists_survives_json() -> None:
    assert Choice(((1, 2), (3,))).contains([1, 2])


@pytest.mark.parametrize(
    ("cls", "arguments"),
    [(Choice, ((),)), (Uniform, (1, 0)), (Uniform, (0, math.inf)), (LogUniform, (0.0, 1.0)), (Integer, (3, 2))],
)
def test_impossible_parameters(cls: Any, arguments: tuple[Any, ...]) -> None:
    with pytest.raises(UsageError):
        cls(*arguments)


def test_a_space_says_what_is_wrong() -> None:
    point = SPACE.sample(random.Random(0))
    assert SPACE.problem(point) is None
    assert "train.optimizer.lr = 3 is outside" in str(SPACE.problem(point | {LR: 3}))
    assert "it sets model.kind" in str(SPACE.problem({KIND: "a"}))


# ---------------------------------------------------------------- proposals


def test_random_trials_depend_on_seed_and_number_alone() -> None:
    def trial(number: int, score: float) -> Trial:
        return Trial(number, {}, "full", {}, score)

    def propose(seed: int, count: int, score: float = 0.0) -> dict[str, Any]:
        return RandomSearch(SPACE, seed).propose([trial(i, score) for i in range(count)])

    assert propose(0, 3) == propose(0, 3, score=9.0)
    points = [propose(seed, count) for seed in (0, 1) for count in range(4)]
    assert len({json.dumps(p, sort_keys=True) for p in points}) == 8


def test_the_order_of_the_space_does_not_matter() -> None:
    turned = Space(dict(reversed(PARAMETERS.items())))
    assert list(turned.parameters) != list(SPACE.parameters)
    for number in range(5):
        history = [Trial(i, {}, "full", {}, 0.0) for i in range(number)]
        assert RandomSearch(turned, 7).propose(history) == RandomSearch(SPACE, 7).propose(history)


# ---------------------------------------------------------------- objectives


def test_objectives_read_dotted_paths() -> None:
    report = {"quality": {"accuracy": 91.5}, "kd.loss": {"a.b": 2}, "stages": 3, "flag": True}
    assert Objective("quality.accuracy", True).read(report) == 91.5
    assert Objective("kd.loss.a.b", False).read(report) == 2.0
    with pytest.raises(UnknownKey, match="'acuracy'; did you mean 'accuracy'"):
        Objective("quality.acuracy", True).read(report)
    with pytest.raises(UnknownKey, match="'deep'"):
        Objective("stages.deep", True).read(report)
    for path in ("quality", "flag"):
        with pytest.raises(UsageError, match="not a number"):
            Objective(path, True).read(report)


@pytest.mark.parametrize(("higher", "number"), [(True, 1), (False, 2)])
def test_the_best_is_the_earliest_of_equals(higher: bool, number: int) -> None:
    scores = [1.0, 3.0, -2.0, 3.0, -2.0, None]
    trials = [Trial(i, {}, "full", {}, s) for i, s in enumerate(scores)]
    best = Objective("x", higher).best(trials)
    assert best is not None
    assert best.number == number
    assert Objective("x", higher).best(trials[5:]) is None


# ---------------------------------------------------------------- the store


def trials(count: int) -> list[Trial]:
    return [Trial(i, {LR: 0.1 * i}, "quick", {"x": [i, None]}, i / 3, "é" * i) for i in range(count)]


def filled(path: Path, count: int) -> TrialStore:
    store = TrialStore(path)
    for trial in trials(count):
        store.append(trial)
    return store


def test_a_store_keeps_trials(tmp_path: Path) -> None:
    store = filled(tmp_path / "new" / "trials.jsonl", 3)
    assert store.load() == trials(3)
    assert TrialStore(tmp_path / "none.jsonl").load() == []


def test_a_line_cut_off_anywhere_is_dropped_and_written_over(tmp_path: Path) -> None:
    whole = filled(tmp_path / "whole.jsonl", 3).path.read_bytes()
    start = whole.rindex(b"\n", 0, -1) + 1  # of the third line
    for end in range(start, len(whole)):
        store = TrialStore(tmp_path / "cut.jsonl")
        store.path.write_bytes(whole[:end])
        assert store.load() == trials(2)
        store.append(trials(3)[2])
        assert store.path.read_bytes() == whole


def test_a_broken_line_in_the_middle_is_an_error(tmp_path: Path) -> None:
    store = filled(tmp_path / "trials.jsonl", 2)
    good = store.path.read_text()
    for bad in ("{\n", "3\n", '{"number": 1}\n', "\x00\n"):
        store.path.write_text(good + bad + good)
        with pytest.raises(ArtifactError, match="line 3 is no trial"):
            store.load()


# ---------------------------------------------------------------- the loop


def test_a_search_returns_the_best_trial(tmp_path: Path) -> None:
    runs = Runs()
    best = search_in(tmp_path / "t.jsonl", runs, 8)
    scores = [100 * o[SPARSITY] - o[BITS] for o in runs.asked]
    assert len(scores) == 8
    assert (best.score, best.number) == (max(scores), scores.index(max(scores)))
    assert best.overrides == runs.asked[best.number]
    lowest = search_in(tmp_path / "t.jsonl", runs, 8, objective=Objective("quality.accuracy", False))
    assert lowest.score == min(scores)
    assert len(runs.asked) == 8


@pytest.mark.parametrize("torn", [False, True])
def test_an_interrupted_search_goes_on_as_if_it_had_not_been(tmp_path: Path, torn: bool) -> None:
    whole = Runs()
    best = search_in(tmp_path / "whole.jsonl", whole, 8)

    path = tmp_path / "cut.jsonl"
    before, after = Runs(interrupt_at=3), Runs()
    with pytest.raises(KeyboardInterrupt):
        search_in(path, before, 8)
    if torn:  # killed while it wrote the third trial
        path.write_bytes(path.read_bytes()[:-20])
    # Another order of the space must not matter either.
    resumed = search_in(path, after, 8, space=Space(dict(reversed(PARAMETERS.items()))))

    kept = 2 if torn else 3
    assert before.asked[:kept] + after.asked == whole.asked
    assert len(after.asked) == 8 - kept
    assert (resumed.number, resumed.overrides, resumed.score) == (best.number, best.overrides, best.score)
    assert [t.score for t in TrialStore(path).load()] == [t.score for t in TrialStore(tmp_path / "whole.jsonl").load()]


def test_failures_are_kept_and_do_not_stop_the_search(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    runs = Runs(fail_at=(0, 2))
    best = search_in(path, runs, 4)
    assert best.number in (1, 3)
    stored = TrialStore(path).load()
    assert [t.error for t in stored] == ["loss is nan in trial 0", "", "loss is nan in trial 2", ""]
    assert [t.report is None for t in stored] == [True, False, True, False]
    search_in(path, runs, 4)
    assert len(runs.asked) == 4  # failures aren't tried again
    with pytest.raises(UsageError, match="none of 2 trials has a score; the last one: loss is nan in trial 1"):
        search_in(tmp_path / "all.jsonl", Runs(fail_at=(0, 1)), 2)


def test_a_bug_stops_the_search(tmp_path: Path) -> None:
    def evaluate(overrides: Mapping[str, Any], budget: Budget) -> dict[str, Any]:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_search(RandomSearch(SPACE), evaluate, TrialStore(tmp_path / "t.jsonl"), 3, objective=QUALITY)
    assert TrialStore(tmp_path / "t.jsonl").load() == []


def test_a_score_that_is_no_finite_number_is_never_the_best(tmp_path: Path) -> None:
    answers = iter([math.nan, 1.0, math.inf])

    def evaluate(overrides: Mapping[str, Any], budget: Budget) -> dict[str, Any]:
        return {"accuracy": next(answers)}

    store = TrialStore(tmp_path / "t.jsonl")
    best = run_search(RandomSearch(SPACE), evaluate, store, 3, objective=Objective("accuracy", True))
    assert best.number == 1
    assert [t.error for t in store.load()] == ["accuracy is nan", "", "accuracy is inf"]


def test_a_misspelt_objective_loses_no_evaluation(tmp_path: Path) -> None:
    runs = Runs()
    with pytest.raises(UnknownKey, match="did you mean 'accuracy'"):
        search_in(tmp_path / "t.jsonl", runs, 3, objective=Objective("quality.acuracy", True))
    assert search_in(tmp_path / "t.jsonl", runs, 3).score is not None
    assert len(runs.asked) == 3


def test_the_budget_is_carried_through_and_not_mixed(tmp_path: Path) -> None:
    store, runs = TrialStore(tmp_path / "t.jsonl"), Runs()
    run_search(RandomSearch(SPACE), runs, store, 2, objective=QUALITY, budget="quick")
    assert runs.budgets == {"quick"}
    assert {t.budget for t in store.load()} == {"quick"}
    with pytest.raises(UsageError, match="its budget is 'quick', not 'full'"):
        search_in(store.path, runs, 2)


def test_a_store_of_another_space_is_refused(tmp_path: Path) -> None:
    search_in(tmp_path / "t.jsonl", Runs(), 2)
    narrow = Space(PARAMETERS | {BITS: Integer(20, 30)})
    with pytest.raises(UsageError, match=r"holds another search: trial 0: .*outside Integer\(low=20, high=30\)"):
        search_in(tmp_path / "t.jsonl", Runs(), 3, space=narrow)


def test_a_search_that_leaves_its_space_is_named(tmp_path: Path) -> None:
    class Stray(Search):
        key = "stray"

        def propose(self, history: Sequence[Trial]) -> dict[str, Any]:
            return {LR: 5.0}

    with pytest.raises(PluginError, match=r"search 'stray' proposed no point.*lr = 5\.0 is outside"):
        run_search(Stray(Space({LR: Uniform(0, 1)})), Runs(), TrialStore(tmp_path / "t.jsonl"), 1, objective=QUALITY)
