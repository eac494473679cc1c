"""When what is spread over a stage is due, how fast it learns there, and what its losses come to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from tests.core.company.runs import run, run_also_killed
from tests.core.helpers import Act, offering, recipe, registry

from condensery import Registry, hookimpl
from condensery.errors import PluginError
from condensery.recipe import ScheduleSpec
from condensery.run import Player, Stage, due_steps, rate_factor
from condensery.tasks import Batch
from condensery_plugins.tasks.digits import Digits


@pytest.mark.parametrize(("parts", "due"), [(1, []), (3, [2, 4]), (6, [1, 2, 3, 4, 5]), (9, [1, 1, 2, 3, 3, 4, 5, 5])])
def test_parts_of_a_stage_are_due_evenly_and_all_before_its_last_batch(parts: int, due: list[int]) -> None:
    stage = Stage.__new__(Stage)
    stage.epochs, stage.steps_per_epoch = 2, 3
    assert due_steps(stage, parts) == due


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [
        ({"name": "constant"}, [1, 1, 1, 1, 1]),
        ({"name": "linear"}, [1, 0.75, 0.5, 0.25, 0]),
        ({"name": "cosine"}, [1, 0.8535534, 0.5, 0.1464466, 0]),  # half a cosine: (1 + cos 45 deg) / 2 after a quarter
        ({"name": "step", "milestones": [0.5, 0.75], "gamma": 0.1}, [1, 1, 0.1, 0.01, 0.01]),
        ({"name": "cosine", "warmup": 0.5}, [0.002, 0.5, 1, 0.5, 0]),
        ({"name": "exponential", "gamma": 1e-4}, [1, 0.1, 0.01, 0.001, 0.0001]),  # BNN's 0.003 falls to 0.0000003
    ],
)
def test_rates_by_hand(schedule: dict[str, Any], factors: list[float]) -> None:
    """At the start of a stage, at its quarters, and at its end."""
    found = [rate_factor(ScheduleSpec.model_validate(schedule), share) for share in (0, 0.25, 0.5, 0.75, 1)]
    assert found == pytest.approx(factors, abs=1e-6)


# ---------------------------------------------------------------- whose batches are more or fewer than the task's

RATES: list[float] = []


class Rates(Act):
    """Gives an epoch of batches, of which the task has two, and notes the learning rate of each."""

    made: ClassVar[Any] = staticmethod(lambda epoch, batches: batches)

    @hookimpl
    def batches(self, stage: Stage) -> Iterable[Batch]:
        whole = list(stage.task_batches())
        return self.made(stage.epoch, whole)  # type: ignore[no-any-return]

    @hookimpl
    def training_step(self, stage: Stage, batch: Batch) -> bool:
        if not stage.dry:
            RATES.append(stage.student.optimizer.param_groups[0]["lr"])  # type: ignore[union-attr]
        stage.gradients(batch)
        stage.update(stage.student)
        return True


def rates(made: Any, tmp_path: Path, **train: Any) -> list[float]:
    RATES.clear()
    known = registry(rates=type("Rates", (Rates,), {"made": staticmethod(made), "__annotations__": {}}))
    train = {"schedule": {"name": "linear"}, "optimizer": {"lr": 1e-3}, **train}
    run(recipe([{"name": "s", "methods": ["rates"], "epochs": 2, "train": train}]), known, tmp_path / "o")
    return [1000 * rate for rate in RATES]


def test_rates_fall_to_the_end_of_more_batches_than_the_task_has(tmp_path: Path) -> None:
    found = rates(lambda epoch, batches: 4 * batches, tmp_path)
    assert found == pytest.approx([1 - step / 16 for step in range(16)])


def test_rates_fall_to_the_end_of_fewer_batches(tmp_path: Path) -> None:
    assert rates(lambda epoch, batches: batches[:1], tmp_path) == pytest.approx([1, 0.5])


def test_rates_fall_through_epochs_of_unequal_length(tmp_path: Path) -> None:
    """Each epoch is half of the way, the first in eight steps, the second in two."""
    found = rates(lambda epoch, batches: batches if epoch else 4 * batches, tmp_path)
    assert found == pytest.approx([1 - step / 16 for step in range(8)] + [0.5, 0.25])


def test_the_most_steps_of_an_epoch_are_counted(tmp_path: Path) -> None:
    found = rates(lambda epoch, batches: iter(4 * batches), tmp_path, max_steps=5)
    assert found == pytest.approx([1 - step / 10 for step in range(10)])


def test_more_batches_than_were_counted_are_an_error(tmp_path: Path) -> None:
    def endless(epoch: int, batches: list[Batch]) -> Iterator[Batch]:
        while True:
            yield from batches

    says = "stage 's', rates, batches: an epoch has more than the 2 that the schedule counts on; return what has a len"
    with pytest.raises(PluginError, match=says):
        rates(endless, tmp_path)
    assert pytest.approx([1e-3, 0.75e-3]) == RATES


def test_a_task_with_more_batches_than_it_says_is_an_error(tmp_path: Path) -> None:
    class Longer(Digits):
        key = "longer"

        def batches(self, split: Any, **how: Any) -> Iterator[Batch]:
            for batch in super().batches(split, **how):
                yield from [batch, batch] if split == "train" else [batch]

    known = Registry.open([("given", offering(tasks={"longer": Longer}))])
    says = r"an epoch has more than the 2 that the schedule counts on; the task's steps\(\) must count them"
    with pytest.raises(PluginError, match=says):
        run(recipe([{"methods": []}], task="longer"), known, tmp_path / "o")


# ---------------------------------------------------------------- sums


@pytest.mark.parametrize("parts", [{}, {"accumulate": 4}, {"workers": 2}, {"workers": 2, "accumulate": 2}])
def test_a_mean_is_divided_by_how_often_its_term_was_given(parts: dict[str, int], tmp_path: Path) -> None:
    """One method always says 3, one says 5 in every other step; batches are more than the task's."""

    class Says(Act):
        @hookimpl
        def batches(self, stage: Stage) -> Iterable[Batch]:
            return 3 * list(stage.task_batches())

        @hookimpl
        def loss_terms(self, stage: Stage) -> dict[str, torch.Tensor]:
            terms = {"three": torch.tensor(3.0, requires_grad=True)}
            return terms | ({} if stage.step % 2 else {"five": torch.tensor(5.0, requires_grad=True)})

    report, _ = run(recipe([{"methods": ["says"], "train": parts}]), registry(says=Says), tmp_path / "o")
    terms = report["stages"][0]["history"][0]["terms"]
    assert terms["student.says.three"] == pytest.approx(3.0)
    assert terms["student.says.five"] == pytest.approx(5.0)
    assert 1.5 < terms["student.task"] < 4.0  # about ln 10, not twice that of two workers


# ---------------------------------------------------------------- players that step now and then


class Adversary(Act):
    """A generator that steps after every fifth batch of its critic, in a step of the method's own."""

    acts_on = ("student", "generator")
    every = 5

    @hookimpl
    def players(self, stage: Stage) -> list[Player]:
        return [stage.recruit("generator", like="student")]

    @hookimpl
    def training_step(self, stage: Stage, batch: Batch) -> bool:
        generator = stage.players["generator"]
        stage.gradients(batch, [stage.student])
        stage.update(stage.student)
        if stage.step % self.every == self.every - 1:
            stage.gradients(batch, [generator])
            stage.update(generator)
        return True


class Counts(Act):
    """Counts real updates of each player."""

    acts_on = ("all",)
    seen: ClassVar[dict[str, int]] = {}

    @hookimpl
    def after_step(self, stage: Stage, player: Player) -> None:
        if not stage.dry:
            self.seen[player.name] = self.seen.get(player.name, 0) + 1


def test_a_generator_that_steps_now_and_then_silences_nobody(tmp_path: Path) -> None:
    """Within the two batches of a dry run it never steps; beside a method that acts on it, it isn't refused."""
    Counts.seen.clear()
    what = recipe([{"methods": ["adversary", "counts"], "epochs": 2, "train": {"batch_size": 4}}])
    run_also_killed(what, registry(adversary=Adversary, counts=Counts), tmp_path)
    assert Counts.seen == {"student": 2 * 16, "generator": 2 * 3}


def test_a_generator_that_steps_past_the_others_is_refused_where_it_has_stepped(tmp_path: Path) -> None:
    """In the batches that ``every`` makes the dry run play, by hand: nobody's verbs are used for it."""

    class Past(Adversary):
        @hookimpl
        def training_step(self, stage: Stage, batch: Batch) -> bool:
            stage.gradients(batch, [stage.student])
            stage.update(stage.student)
            if stage.step == 3:
                with torch.no_grad():
                    next(stage.players["generator"].module.parameters()).data.add_(1.0)
            return True

    stage = {"methods": ["past", "counts"], "train": {"batch_size": 4}}
    known = registry(past=Past, counts=Counts)
    run(recipe([stage]), known, tmp_path / "fine")
    with pytest.raises(PluginError, match="past silences counts, whose after_step is never called for generator"):
        run(recipe([{**stage, "players": {"generator": {"train": True, "every": "1/4"}}}]), known, tmp_path / "o")
