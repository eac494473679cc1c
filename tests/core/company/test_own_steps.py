"""A method with a step of its own, beside others: all of them act, or the pair is refused."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.core.company.examples import Alone, Consistency, Extragradient, OneBitSGD, pack, unpack
from tests.core.company.runs import run, run_also_killed
from tests.core.helpers import Act, recipe, registry
from torch import Tensor

from condensery import hookimpl
from condensery.contract import STEP_HOOKS
from condensery.errors import PluginError
from condensery.run import Bucket, Player, Stage
from condensery.tasks import Batch

COUNTED: Counter[tuple[str, str]] = Counter()


class Counts(Act):
    """Counts how often its hooks are called in real steps, by hook and player."""

    acts_on = ("all",)

    def count(self, hook: str, stage: Stage, player: Player) -> None:
        COUNTED[hook, player.name] += not stage.dry

    @hookimpl
    def loss_terms(self, stage: Stage, player: Player) -> None:
        self.count("loss_terms", stage, player)

    @hookimpl
    def task_weight(self, stage: Stage, player: Player) -> None:
        self.count("task_weight", stage, player)

    @hookimpl
    def exchange(self, stage: Stage, player: Player) -> None:
        self.count("exchange", stage, player)

    @hookimpl
    def after_backward(self, stage: Stage, player: Player) -> None:
        self.count("after_backward", stage, player)

    @hookimpl
    def after_step(self, stage: Stage, player: Player) -> None:
        self.count("after_step", stage, player)


KNOWN = registry(
    consistency=Consistency, extragradient=Extragradient, alone=Alone, counts=Counts, **{"one-bit-example": OneBitSGD}
)


@pytest.mark.parametrize("own", ["consistency", "extragradient"])
@pytest.mark.parametrize("beside", ["network-slimming", "hinton-kd", "deep-mutual-learning"])
def test_a_step_of_its_own_lets_the_others_act(own: str, beside: str, tmp_path: Path) -> None:
    """Two epochs of two batches: a third method is called as often as the steps ask, and the others act."""
    COUNTED.clear()
    methods = [own, beside, "counts"]
    report, watch = run_also_killed(recipe([{"methods": methods, "teacher": "original", "epochs": 2}]), KNOWN, tmp_path)

    passes = 2 if own == "extragradient" else 1
    players = ["student", "peer#1"] if beside == "deep-mutual-learning" else ["student"]
    steps = 4 + 4  # of the whole run, and of the one that was killed and resumed
    for player in players:
        assert {h: COUNTED[h, player] for h in ("loss_terms", "task_weight", "after_backward")} == dict.fromkeys(
            ("loss_terms", "task_weight", "after_backward"), steps * passes
        )
        assert COUNTED["after_step", player] == steps
        assert COUNTED["exchange", player] > steps  # once for each parameter

    terms = set(report["stages"][0]["history"][1]["terms"])
    assert {"student.task"} <= terms
    term = {"hinton-kd": "student.hinton-kd.kd", "deep-mutual-learning": "peer#1.deep-mutual-learning.mutual"}
    assert beside not in term or term[beside] in terms
    if beside == "network-slimming":
        assert sum(p.numel() for p in watch.student.parameters()) < 0.7 * report["before"]["parameters"]


@pytest.mark.parametrize("beside", ["network-slimming", "hinton-kd", "counts"])
def test_a_step_that_silences_another_is_refused_naming_both(beside: str, tmp_path: Path) -> None:
    what = recipe([{"name": "s", "methods": ["alone", beside], "teacher": "original"}])
    with pytest.raises(
        PluginError, match=rf"stage 's': alone silences {beside}, whose \w+ is never called for student"
    ):
        run(what, KNOWN, tmp_path / "o")
    assert not (tmp_path / "o").exists()


def test_a_step_that_goes_past_everybody_is_fine_alone(tmp_path: Path) -> None:
    report, _ = run(recipe(["alone"]), KNOWN, tmp_path / "o")
    assert report["stages"][0]["methods"] == ["alone"]


def test_one_residual_for_each_player(tmp_path: Path) -> None:
    """Student and peer have parameters of the same names; each worker of each has residuals of its own."""
    residuals: dict[str, Tensor] = {}

    class Keeps(OneBitSGD):
        key = "one-bit-example"

        @hookimpl
        def end_stage(self, stage: Stage) -> None:
            residuals.clear()
            residuals.update(self.residuals_)

    known = registry(**{"one-bit-example": Keeps})
    stage = {"methods": ["one-bit-example", "deep-mutual-learning"], "epochs": 2, "train": {"workers": 2}}
    report, watch = run_also_killed(recipe([stage]), known, tmp_path)

    names = {name for name, _ in watch.student.named_parameters()}
    assert set(residuals) == {f"{player}/{name}" for player in ("student", "peer#1") for name in names}
    assert all(len(kept) == 2 for kept in residuals.values())
    assert any(bool(kept.any()) for kept in residuals.values())
    assert not torch.equal(residuals["student/conv1.weight"], residuals["peer#1/conv1.weight"])

    # One bit for each number and two floats for each parameter, of two nets, in four steps.
    sizes = [parameter.numel() for parameter in watch.student.parameters()]
    sent = 2 * 4 * sum(-(-size // 8) + 2 * 4 for size in sizes)
    assert report["stages"][0]["report"] == {"one-bit-example.sent_bytes": sent}


def test_bits_are_packed_eight_to_a_byte() -> None:
    bits = torch.tensor([[True] + 7 * [False] + [False, True]])
    assert pack(bits).tolist() == [[1, 2]]
    assert torch.equal(unpack(pack(bits), 10), bits)


def test_a_bucket_counts_what_a_worker_sends() -> None:
    bucket = Bucket("fc.weight", torch.Size([2, 5]), torch.tensor([[1.0] * 10, [3.0] * 10]))
    assert bucket.gather(torch.zeros(2, 3, dtype=torch.uint8)).shape == (2, 3)
    assert bucket.sent == 3
    assert bucket.max(bucket.values).tolist() == [3.0] * 10
    assert bucket.sent == 3 + 40
    assert bucket.mean(bucket.values).tolist() == [2.0] * 10
    assert bucket.sent == 3 + 80


@pytest.mark.parametrize("hook", ["exchange", "optimizer"])
def test_acts_on_covers_what_only_one_may_answer(hook: str, tmp_path: Path) -> None:
    """Asked for the student alone by default; two methods may answer for different players, but not for the same."""
    asked: set[str] = set()

    def answer(self: Act, player: Player) -> None:
        asked.add(player.name)

    def method(name: str, *players: str) -> type[Act]:
        return type(name, (Act,), {"acts_on": players, "__annotations__": {}, hook: hookimpl(answer)})

    known: Any = registry(one=method("One", "student"), two=method("Two", "peer#1"), all=method("All", "all"))
    run(recipe([{"methods": ["one", "deep-mutual-learning"]}]), known, tmp_path / "one")
    assert asked == {"student"}
    run(recipe([{"methods": ["one", "two", "deep-mutual-learning"]}]), known, tmp_path / "two")
    assert asked == {"student", "peer#1"}
    with pytest.raises(PluginError, match=f"one and all both implement {hook}"):
        run(recipe([{"methods": ["one", "all", "deep-mutual-learning"]}]), known, tmp_path / "all")


@pytest.mark.parametrize("answer", [None, 1, False])
def test_a_step_that_does_not_say_that_it_was_taken_is_refused(answer: Any, tmp_path: Path) -> None:
    """Core's own step would follow."""

    class Forgets(Act):
        @hookimpl
        def training_step(self, stage: Stage, batch: Batch) -> Any:
            stage.gradients(batch)
            stage.update(stage.student)
            return answer

    with pytest.raises(PluginError, match="stage 's', forgets, training_step: must return True, got"):
        run(recipe([{"name": "s", "methods": ["forgets"]}]), registry(forgets=Forgets), tmp_path / "o")


def test_the_hooks_that_are_counted_are_those_of_a_step() -> None:
    assert {hook for hook in vars(Counts) if hasattr(vars(Counts)[hook], "condensery_impl")} == set(STEP_HOOKS)
