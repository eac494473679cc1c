"""The loop: what is proposed is stored, evaluated once, and survives whatever ends the process."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from optuna.pruners import MedianPruner, ThresholdPruner

from condensery import UnknownKey, UsageError
from condensery.errors import ArtifactError, FileError, NonFiniteLoss, PluginError
from condensery.files import append_lines
from condensery.run import Budget, Ongoing, Proposal, Search, Space, Trial, TrialStore, best_trials, run_search

SPARSITY, BITS = "stages.0.magnitude.sparsity", "stages.1.lsq.bits"
DATA: dict[str, Any] = {
    "parameters": {SPARSITY: {"low": 0.0, "high": 1.0}, BITS: {"low": 2, "high": 8, "step": 1}},
    "objectives": {"validation.accuracy": "maximize"},
}
SPACE = Space.model_validate(DATA)


@dataclasses.dataclass(eq=False, kw_only=True)
class Walk(Search):
    """Walks along the sparsities, and notes what it has learnt so far."""

    key = "walk"
    length: int = 100
    learnt: list[int] = dataclasses.field(default_factory=list)

    def propose(self, history: Sequence[Trial]) -> Proposal | None:
        step = len(history)
        if step == self.length:
            return None
        start = 0 if step == 4 else None
        return Proposal({SPARSITY: round(0.01 * step, 2), BITS: 4}, {"learnt": list(self.learnt)}, start)

    def observe(self, trial: Trial) -> None:
        self.learnt.append(trial.number)


class Runs:
    """Evaluates a formula of the overrides, and remembers what it was asked.

    :param raises: by number of the evaluation, what it raises instead.
    """

    def __init__(self, raises: Mapping[int, BaseException] | None = None) -> None:
        self.asked: list[tuple[int, float, Budget, int | None]] = []
        self.raises = dict(raises or {})

    def __call__(self, overrides: Mapping[str, Any], budget: Budget, trial: Ongoing) -> dict[str, Any]:
        if error := self.raises.pop(trial.number, None):
            raise error
        start = None if trial.start is None else trial.start.number
        self.asked.append((trial.number, overrides[SPARSITY], budget, start))
        bytes_ = 1000 - 100 * overrides[SPARSITY]
        return {"validation": {"accuracy": 90 - 100 * abs(overrides[SPARSITY] - 0.03)}, "after": {"bytes": bytes_}}


def store(path: Path | None, space: Space = SPACE, **settings: Any) -> TrialStore:
    return TrialStore(path, space, **settings)


def walked(path: Path | None, runs: Any, trials: int = 6, space: Space = SPACE, **settings: Any) -> list[Trial]:
    return run_search(Walk(space=space), runs, store(path, space, **settings), trials)


# ---------------------------------------------------------------- what comes of it


def test_trials_are_stored_with_all_that_belongs_to_them(tmp_path: Path) -> None:
    runs = Runs()
    found = walked(tmp_path / "trials.jsonl", runs)
    assert [(t.number, t.state, t.starts, t.error) for t in found] == [(n, "complete", 1, "") for n in range(6)]
    assert [t.overrides for t in found] == [{SPARSITY: round(0.01 * n, 2), BITS: 4} for n in range(6)]
    assert [t.notes for t in found] == [{"learnt": list(range(n))} for n in range(6)]
    assert runs.asked[4] == (4, 0.04, "full", 0)  # goes on from the net of trial 0
    assert [t.start for t in found] == [None] * 4 + [0, None]
    assert found[3].report == {"validation": {"accuracy": 90.0}, "after": {"bytes": 997.0}}
    assert found[3].values == (90.0,)
    assert store(tmp_path / "trials.jsonl").trials() == found

    assert [t.number for t in best_trials(SPACE, found)] == [3]
    assert walked(tmp_path / "trials.jsonl", runs, 6) == found
    assert len(runs.asked) == 6  # nothing was evaluated again


def test_a_search_may_end_by_itself(tmp_path: Path) -> None:
    found = run_search(Walk(space=SPACE, length=2), Runs(), store(None), 10)
    assert len(found) == 2


def test_what_was_evaluated_before_keeps_its_report() -> None:
    class Same(Walk):
        def propose(self, history: Sequence[Trial]) -> Proposal:
            return Proposal({SPARSITY: 0.5, BITS: 4 + len(history) // 2})

    runs = Runs()
    found = run_search(Same(space=SPACE), runs, store(None), 4)
    assert [number for number, *_ in runs.asked] == [0, 2]
    assert [t.values for t in found] == [(43.0,)] * 4


def test_limits_decide_what_fits() -> None:
    space = Space.model_validate(DATA | {"limits": {"after.bytes": {"at_most": 996}}})
    found = walked(None, Runs(), space=space)
    assert [t.excess["after.bytes"] for t in found] == pytest.approx([4, 3, 2, 1, 0, -1])
    assert [t.fits for t in found] == [False] * 4 + [True] * 2
    assert [t.number for t in best_trials(space, found)] == [4]


def test_several_objectives_have_a_front() -> None:
    space = Space.model_validate(DATA | {"objectives": {"validation.accuracy": "maximize", "after.bytes": "minimize"}})
    found = walked(None, Runs(), space=space)
    assert found[3].values == (90.0, 997.0)
    assert [t.number for t in best_trials(space, found)] == [3, 4, 5]  # the sparser ones are smaller and worse


@pytest.mark.parametrize(("direction", "number"), [("maximize", 1), ("minimize", 2)])
def test_the_best_is_the_earliest_of_equals(direction: str, number: int) -> None:
    space = Space.model_validate(DATA | {"objectives": {"x": direction}})
    values: list[tuple[float, ...]] = [(1.0,), (3.0,), (-2.0,), (3.0,), (-2.0,)]
    trials = [Trial({}, number=i, state="complete", values=v) for i, v in enumerate(values)]
    trials.append(Trial({}, number=5, state="failed"))
    assert [t.number for t in best_trials(space, trials)] == [number]
    assert best_trials(space, trials[5:]) == []


# ---------------------------------------------------------------- what goes wrong


def test_failures_are_kept_and_do_not_stop_the_search(tmp_path: Path) -> None:
    path = tmp_path / "trials.jsonl"
    wrong = {0: NonFiniteLoss("loss is nan"), 2: UsageError("T must be > 0")}
    found = walked(path, Runs(wrong), 4)
    assert [(t.state, t.error) for t in found] == [
        ("failed", "loss is nan"),
        ("complete", ""),
        ("failed", "T must be > 0"),
        ("complete", ""),
    ]
    assert found[0].report is None
    runs = Runs()
    assert walked(path, runs, 4) == found
    assert runs.asked == []  # failures aren't tried again


@pytest.mark.parametrize(("number", "says"), [(math.nan, "nan"), (math.inf, "inf"), (None, "nan")])
def test_a_score_that_is_no_finite_number_is_a_failure(number: Any, says: str, tmp_path: Path) -> None:
    def evaluate(overrides: Mapping[str, Any], budget: Budget, trial: Ongoing) -> dict[str, Any]:
        return {"validation": {"accuracy": number if trial.number == 1 else 50.0}}

    found = walked(tmp_path / "trials.jsonl", evaluate, 3)
    assert [t.error for t in found] == ["", f"validation.accuracy is {says}", ""]
    assert store(tmp_path / "trials.jsonl").trials() == found


@pytest.mark.parametrize("error", [FileError("disk full"), ArtifactError("damaged"), ZeroDivisionError("a bug")])
def test_what_the_next_trial_would_meet_too_stops_the_search(error: Exception, tmp_path: Path) -> None:
    path = tmp_path / "trials.jsonl"
    with pytest.raises(type(error)):
        walked(path, Runs({1: error}))
    assert [t.state for t in store(path).trials()] == ["complete", "running"]
    assert [t.state for t in walked(path, Runs())] == ["complete"] * 6


def test_a_misspelt_objective_is_named() -> None:
    space = Space.model_validate(DATA | {"objectives": {"validation.acuracy": "maximize"}})
    with pytest.raises(UnknownKey, match="did you mean 'accuracy'"):
        walked(None, Runs(), space=space)


@pytest.mark.parametrize(
    ("proposal", "says"),
    [
        (Proposal({SPARSITY: 5.0, BITS: 4}), f"{SPARSITY} = 5.0 can't be drawn"),
        (Proposal({BITS: 4}), f"it sets {BITS}; to be set are"),
        (Proposal({SPARSITY: 0.5, BITS: 4}, start=7), "goes on from trial 7, which is not complete"),
    ],
)
def test_a_search_that_leaves_its_space_is_named(proposal: Proposal, says: str) -> None:
    class Stray(Walk):
        key = "stray"

        def propose(self, history: Sequence[Trial]) -> Proposal:
            return proposal

    with pytest.raises(PluginError, match=rf"search 'stray' proposed what can't be evaluated: .*{says}"):
        run_search(Stray(space=SPACE), Runs(), store(None), 1)


# ---------------------------------------------------------------- kills


class Killed(BaseException):
    """Stands for a process that is gone: nothing catches it."""


@pytest.mark.parametrize("torn", [0, 1, 20])
def test_a_killed_search_goes_on_as_if_it_had_not_been(tmp_path: Path, torn: int) -> None:
    whole = walked(tmp_path / "whole.jsonl", Runs())
    path = tmp_path / "cut.jsonl"
    with pytest.raises(Killed):
        walked(path, Runs({3: Killed()}))
    if torn:  # killed while it wrote that trial 3 begins
        path.write_bytes(path.read_bytes()[:-torn])

    after = Runs()
    found = walked(path, after)
    assert [number for number, *_ in after.asked] == [3, 4, 5]
    assert [t.starts for t in found] == [1, 1, 1, 1 if torn else 2, 1, 1]
    assert [dataclasses.replace(t, starts=1) for t in found] == whole


def test_a_journal_cut_anywhere_goes_on(tmp_path: Path) -> None:
    whole = walked(tmp_path / "whole.jsonl", Runs(), 2)
    content = (tmp_path / "whole.jsonl").read_bytes()
    path = tmp_path / "cut.jsonl"
    for end in range(0, len(content), 37):
        path.write_bytes(content[:end])
        found = walked(path, Runs(), 2)
        assert [dataclasses.replace(t, starts=1) for t in found] == whole


def test_a_trial_that_kills_its_process_is_given_up(tmp_path: Path) -> None:
    path = tmp_path / "trials.jsonl"
    for _ in range(3):
        with pytest.raises(Killed):
            walked(path, Runs({1: Killed()}))
    found = walked(path, Runs({1: Killed()}), 3)
    assert [(t.state, t.error) for t in found] == [
        ("complete", ""),
        ("failed", "its process was killed 3 times"),
        ("complete", ""),
    ]


def test_a_user_who_stops_a_trial_does_not_kill_it(tmp_path: Path) -> None:
    path = tmp_path / "trials.jsonl"
    for _ in range(5):
        with pytest.raises(KeyboardInterrupt):
            walked(path, Runs({1: KeyboardInterrupt()}))
    assert [t.state for t in walked(path, Runs(), 3)] == ["complete"] * 3


def test_damage_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "trials.jsonl"
    walked(path, Runs(), 2)
    lines = path.read_bytes().splitlines(keepends=True)
    assert len(lines) > 4
    bad = [b"{\n", b"3\n", b"\x00\n", lines[2].replace(b"0", b"1", 1), b"[" * 100_000 + b"\n"]
    for line in bad:
        path.write_bytes(b"".join([*lines[:2], line, *lines[3:]]))
        with pytest.raises(ArtifactError, match=r"trials\.jsonl line 3: damaged .*remove it to search anew") as caught:
            store(path)
        assert "\n" not in str(caught.value)


def test_whole_lines_that_are_no_journal_are_one_line(tmp_path: Path) -> None:
    study = {"op_code": 0, "worker_id": "x", "study_name": "search", "directions": [2]}
    trial = {"op_code": 4, "worker_id": "x", "study_id": 0, "datetime_start": None}
    journals: tuple[list[dict[str, Any]], ...] = (
        [{}],
        [{"op_code": 99}],
        [{"op_code": 0}],
        [{"op_code": 4, "study_id": 3}],
        [study, trial],
    )
    for entries in journals:
        path = tmp_path / "trials.jsonl"
        path.unlink(missing_ok=True)
        append_lines(path, entries)
        with pytest.raises(ArtifactError, match="remove it to search anew"):
            store(path)


def test_another_search_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "trials.jsonl"
    walked(path, Runs(), 2, about={"seed": 0})
    assert len(store(path, about={"seed": 0}).trials()) == 2
    with pytest.raises(UsageError, match=r"holds another search: its seed is another one; say another --out"):
        store(path, about={"seed": 1})
    narrow = Space.model_validate(DATA | {"objectives": {"validation.accuracy": "minimize"}})
    with pytest.raises(UsageError, match="holds another search: its space is another one"):
        store(path, narrow, about={"seed": 0})


# ---------------------------------------------------------------- pruning


def worse_each_time(epochs: int) -> Callable[[Mapping[str, Any], Budget, Ongoing], dict[str, Any]]:
    def evaluate(overrides: Mapping[str, Any], budget: Budget, trial: Ongoing) -> dict[str, Any]:
        accuracy = 90.0 - 10 * trial.number
        for epoch in range(epochs):
            trial.epoch(epoch + 1, {"validation": {"accuracy": accuracy + epoch}})
        return {"validation": {"accuracy": accuracy + epochs}}

    return evaluate


def test_trials_below_the_median_are_pruned(tmp_path: Path) -> None:
    pruner = MedianPruner(n_startup_trials=2)
    found = walked(tmp_path / "t.jsonl", worse_each_time(3), 4, pruner=pruner)
    assert [t.state for t in found] == ["complete", "complete", "pruned", "pruned"]
    assert [t.epochs for t in found] == [{1: 90, 2: 91, 3: 92}, {1: 80, 2: 81, 3: 82}, {1: 70}, {1: 60}]
    assert found[2].error == "after epoch 1"
    assert best_trials(SPACE, found) == found[:1]
    assert store(tmp_path / "t.jsonl", pruner=pruner).trials() == found


def test_without_a_pruner_epochs_are_not_stored() -> None:
    assert [t.epochs for t in walked(None, worse_each_time(3), 2)] == [{}, {}]


def test_a_pruner_needs_one_objective() -> None:
    two = Space.model_validate(DATA | {"objectives": {"validation.accuracy": "maximize", "after.bytes": "minimize"}})
    with pytest.raises(UsageError, match="pruned by one objective"):
        store(None, two, pruner=ThresholdPruner(lower=0.0))
