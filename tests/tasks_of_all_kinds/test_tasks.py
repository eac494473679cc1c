"""Tasks of many kinds, each through pruning and, where there are class scores, through distillation."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.core.helpers import answered
from tests.tasks_of_all_kinds import control, detector, frames, generation, graphs, language, segmenter
from tests.tasks_of_all_kinds.made import run
from torch import nn

from condensery import Batch, NotApplicable
from condensery.recipe import ModelSpec
from condensery.run import Outputs, Player
from condensery.tasks import tensors_in
from condensery_plugins.distillation.hinton_kd import HintonKD
from condensery_plugins.distillation.softened import divergence
from condensery_plugins.tasks.made import Made

KINDS: dict[str, tuple[type[Made], Callable[..., nn.Module]]] = {
    "segmenter": (segmenter.Segmentation, segmenter.build),
    "frames": (frames.Frames, frames.build),
    "gpt2": (language.Language, language.build_gpt2),
    "llama": (language.Language, language.build_llama),
    "detector": (detector.Detection, detector.build),
    "graphs": (graphs.Rings, graphs.build),
    "control": (control.Corridor, control.build),
}
ROWS = {"segmenter": 8 * 4 * 8, "detector": 8 * detector.ANCHORS, "graphs": 8, "control": 8}
"""Of the first batch of eight: pixels without the border, anchors. Frames and tokens are counted in the test."""


def first(kind: str) -> tuple[Made, nn.Module, Batch]:
    """Return a task of a kind, a net for it, and the first batch of eight."""
    cls, build = KINDS[kind]
    task = cls()
    torch.manual_seed(0)
    return task, build(task.facts, "mine").eval(), next(task.batches("train", batch_size=8))


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_pruned_saved_and_loaded(kind: str, tmp_path: Path) -> None:
    report, net, job = run("magnitude(sparsity=0.5, scope=local)", *KINDS[kind], tmp_path / "o")
    assert report["stages"][-1]["report"]["magnitude.sparsity_percent"] == pytest.approx(50, abs=2)
    assert set(report["after"]["quality"]) == {metric.name for metric in job.task.metrics}
    assert all(math.isfinite(value) for value in report["after"]["quality"].values())
    assert report["before"]["quality"] == {}, "an untrained net isn't evaluated"
    assert not report["collapsed"]

    batch = next(job.task.batches("test", batch_size=4))
    assert job.baked is not None
    with torch.no_grad():
        mine, theirs = (job.task.outputs(one.eval(), batch) for one in (job.baked.net, net))
    torch.testing.assert_close(tensors_in(mine), tensors_in(theirs), rtol=0, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_distilled(kind: str, tmp_path: Path) -> None:
    report, _, _ = run("hinton-kd{teacher=original}", *KINDS[kind], tmp_path / "o")
    terms = report["stages"][-1]["history"][-1]["terms"]
    assert 0 < terms["student.hinton-kd.kd"] < 10


@pytest.mark.parametrize("kind", ["segmenter", "gpt2", "detector", "control"])
def test_each_kind_is_distilled_as_a_policy(kind: str, tmp_path: Path) -> None:
    """What a task calls its rows are values of actions, whatever they are of; these are no games that are played."""
    line = "policy-distillation(T=0.5){teacher=original}"
    report, _, _ = run(line, *KINDS[kind], tmp_path / "o")
    terms = report["stages"][-1]["history"][-1]["terms"]
    assert set(terms) == {"student.policy-distillation.kl"}
    assert 0 < terms["student.policy-distillation.kl"] < 10


TAUGHT = {
    "efficacy-early-stopping": "efficacy-early-stopping(stop=1.0){teacher=original}",
    "snapshot-distillation": "snapshot-distillation{teacher=original}",
    "fitnets": "fitnets(phase=distil){teacher=original}",
    "deep-mutual-learning": "deep-mutual-learning",
}
"""Compositions of the other methods on outputs alone, by key."""


@pytest.mark.parametrize("method", TAUGHT)
@pytest.mark.parametrize("kind", ["segmenter", "detector", "gpt2"])
def test_every_method_on_outputs_takes_rows(kind: str, method: str, tmp_path: Path) -> None:
    report, _, _ = run(TAUGHT[method], *KINDS[kind], tmp_path / "o", data={"subset": {"size": 16}})
    (term,) = [name for name in report["stages"][-1]["history"][-1]["terms"] if name.startswith(f"student.{method}.")]
    assert all(0 < epoch["terms"][term] < 10 for epoch in report["stages"][-1]["history"])


@pytest.mark.parametrize("kind", KINDS)
def test_the_soft_term_is_a_mean_over_rows(kind: str) -> None:
    """What hinton-kd adds to the loss is KL by its definition, row by row in plain Python; the rows are counted."""
    task, net, batch = first(kind)
    torch.manual_seed(1)
    other = KINDS[kind][1](task.facts, "mine").eval()
    answers = {name: Outputs(task.outputs(net, batch), task, batch) for name, net in (("s", net), ("t", other))}
    mine, theirs = (answers[name].rows.detach() for name in "st")
    if kind in ROWS:
        assert len(mine) == ROWS[kind]
    elif kind == "frames":
        assert len(mine) == len(batch.labels.data)
    else:
        assert len(mine) == int(batch.inputs["attention_mask"].sum()) - batch.size

    def softened(scores: list[float]) -> list[float]:
        sizes = [math.exp((score - max(scores)) / 2) for score in scores]
        return [size / sum(sizes) for size in sizes]

    total = 0.0
    for one, wanted in zip(mine.tolist(), theirs.tolist(), strict=True):
        total += sum(p * math.log(p / q) for p, q in zip(softened(wanted), softened(one), strict=True))
    assert total > 1e-4

    class Taught:
        teachers = (Player("t", other, spec=ModelSpec(key="mine")),)

    player = Player("s", net, spec=ModelSpec(key="mine"), trains=True)
    term = HintonKD(T=2.0, alpha=0.25).loss_terms(outputs=answers, player=player, stage=Taught())["kd"]  # type: ignore[arg-type]
    assert float(term.detach()) == pytest.approx(0.25 * 2**2 * total / len(mine), rel=1e-3)


@pytest.mark.parametrize("kind", ["segmenter", "frames", "gpt2", "llama"])
def test_parts_of_a_batch_weigh_what_counts_in_them(kind: str) -> None:
    """The weighted mean of the parts' losses is the whole batch's loss, however much of each part is ignored."""
    task, net, batch = first(kind)
    if kind == "segmenter":
        batch.labels[0, :3] = segmenter.IGNORED  # the parts must differ, or any weight would do
    parts = [batch.part(0, 3), batch.part(3, 8)]
    assert [part.size for part in parts] == [3, 5]
    weights = [task.weight(part) for part in parts]
    assert weights[0] / sum(weights) != pytest.approx(3 / 8)
    with torch.no_grad():
        losses = [task.loss(task.outputs(net, part), part) for part in parts]
        whole = task.loss(task.outputs(net, batch), batch)
    assert all(loss is not None for loss in losses)
    mean = sum(weight * float(loss or 0) for weight, loss in zip(weights, losses, strict=True)) / sum(weights)
    assert whole is not None
    assert mean == pytest.approx(float(whole), rel=1e-5)


def test_perplexity_by_hand() -> None:
    """A net that finds all of 11 tokens as likely has perplexity 11, whatever is padded."""
    task = language.Language()
    meter = task.meter()
    for batch in task.batches("test", batch_size=4):
        shape = (batch.size, language.VOCABULARY, batch.labels.shape[1])
        meter.update(torch.zeros(shape), batch)
    assert meter.compute() == {"perplexity": pytest.approx(11)}


def test_average_precision_by_hand() -> None:
    """Two boxes of class 0 and three answers: right (0.9), wrong (0.8), right (0.7): 1/2 * 1 + 1/2 * 2/3."""
    truth = {"boxes": torch.tensor([[1.0, 1, 3, 3], [5, 5, 7, 7]]), "labels": torch.zeros(2, dtype=torch.long)}
    boxes = torch.tensor([[[1.0, 1, 3, 3], [9, 9, 11, 11], [5, 5, 7, 7]]])
    logits = torch.tensor([[[0.9, 0.05, 0.05], [0.8, 0.1, 0.1], [0.7, 0.15, 0.15]]]).log()
    meter = detector.AveragePrecision()
    meter.update({"boxes": boxes, "logits": logits}, Batch(torch.zeros(1), [truth]))
    assert meter.compute()["ap50"] == pytest.approx(
        100 * (0.5 + 0.5 * 2 / 3) / 2
    )  # of the other class nothing is there


def test_mean_intersection_over_union_by_hand() -> None:
    """One row of pixels, truths 0 0 1 1 and one ignored, answers 0 1 1 1 1: 1/2 and 2/3 of two classes."""
    task = segmenter.Segmentation()
    meter = task.meter()
    scores = nn.functional.one_hot(torch.tensor([[[0, 1, 1, 1, 1]]]), 3).permute(0, 3, 1, 2).float()
    meter.update(scores, Batch(scores, torch.tensor([[[0, 0, 1, 1, segmenter.IGNORED]]])))
    found = meter.compute()
    assert found["miou"] == pytest.approx(100 * (1 / 2 + 2 / 3) / 2, rel=1e-4)
    assert found["accuracy"] == pytest.approx(75)


def test_class_weights_reach_the_soft_term() -> None:
    """Rows of classes 0 and 1 with weights 1 and 3: (1 * KL_0 + 3 * KL_1) / 4."""
    task = segmenter.Segmentation()
    task.class_weights = torch.tensor([1.0, 3.0, 1.0])
    labels = torch.tensor([0, 1])
    target = torch.tensor([[0.25, 0.75], [0.5, 0.5]])
    one = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    mine = answered(torch.zeros(2, 2), task, labels)
    assert float(divergence(mine, target, 1.0)) == pytest.approx((1 * one + 3 * 0) / 4)
    assert task.weight(mine.batch) == 4


def test_a_player_learns_from_its_replay_buffer_and_is_pruned(tmp_path: Path) -> None:
    line = "magnitude(sparsity=0.5, scope=local) + explore"
    what = {"train": {"epochs": 60, "batch_size": 16, "optimizer": {"name": "adam", "lr": 0.02}}}
    report, _, job = run(
        line, control.Corridor, control.build, tmp_path / "o", methods={"explore": control.Explore}, **what
    )
    assert control.best() == pytest.approx(control.DISCOUNT**3)  # four steps to the right
    assert report["after"]["quality"] == {"earned": pytest.approx(control.best())}
    assert report["stages"][-1]["report"]["magnitude.sparsity_percent"] == pytest.approx(50, abs=2)
    assert isinstance(job.task, control.Corridor)
    assert len(job.task.buffer) > 16


def test_a_generator_is_pruned_while_a_critic_trains(tmp_path: Path) -> None:
    more = {"methods": {"adversary": generation.Adversary}, "models": {"critic": generation.build_critic}}
    line = "magnitude(sparsity=0.5, scope=local) + adversary"
    report, _, _ = run(line, generation.Generation, generation.build, tmp_path / "o", **more)
    terms = report["stages"][-1]["history"][-1]["terms"]
    assert set(terms) == {"critic.critic", "student.adversary.fooled"}
    assert report["after"]["quality"]["distance"] > 0
    assert not report["collapsed"]


def test_what_has_no_class_scores_is_not_distilled(tmp_path: Path) -> None:
    more = {"methods": {"adversary": generation.Adversary}, "models": {"critic": generation.build_critic}}
    with pytest.raises(NotApplicable, match=r"hinton-kd .*class scores that can be softened"):
        run("hinton-kd{teacher=original} + adversary", generation.Generation, generation.build, tmp_path / "o", **more)
