from __future__ import annotations

import copy
import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.core.helpers import Inputs, Watch, offering, recipe, registry
from torch import Tensor, nn

import condensery
from condensery import Batch, Method, Registry, Run, Stage, UsageError, hookimpl
from condensery.measure import Precision, evaluate
from condensery.run import Outputs
from condensery.tasks import Subset, TaskFacts, given_task
from condensery.testing import play
from condensery_plugins.distillation.softened import divergence, softened
from condensery_plugins.tasks.digits import Digits

CPU = torch.device("cpu")


def test_a_size_stands_for_height_and_width() -> None:
    square = TaskFacts("image", outputs=2, channels=1, size=8)
    assert (square.height, square.width) == (8, 8)
    again = TaskFacts(**json.loads(json.dumps(dataclasses.asdict(square))))
    assert again == square
    wide = TaskFacts("image", outputs=2, channels=1, height=8, width=16)
    assert (wide.height, wide.width) == (8, 16)
    assert TaskFacts("point cloud", outputs=2, size=3).height == 0


class Two(nn.Module):
    """A head that counts, and a second one; as a tuple while training alone, or as a dict."""

    kind = "tuple"

    def __init__(self, pixels: int, outputs: int) -> None:
        super().__init__()
        self.body, self.head, self.aux = nn.Linear(pixels, 16), nn.Linear(16, outputs), nn.Linear(16, outputs)

    def forward(self, x: Tensor) -> Any:
        x = torch.relu(self.body(x.flatten(1)))
        if self.kind == "dict":
            return {"aux": self.aux(x), "logits": self.head(x)}
        return (self.head(x), self.aux(x)) if self.training else self.head(x)


@pytest.mark.parametrize("kind", ["tuple", "dict"])
@pytest.mark.parametrize("method", ["magnitude", "hinton-kd"])
def test_of_several_outputs_the_head_counts(
    kind: str, method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Two, "kind", kind)
    nets = {"two": lambda facts, name: Two(facts.height * facts.width, facts.outputs)}
    installed = Registry.open([("two", offering(models=nets))])
    stage = {"methods": [method], "teacher": "original" if method == "hinton-kd" else None, "epochs": 2}
    job = Run(recipe([stage], model="two"), installed, out=tmp_path / "o")
    report = job.execute()

    # The head learns, the other one, which gets no loss, stays as it was.
    fresh = job.builder.net(job.recipe.model).module
    assert job.baked is not None
    assert torch.equal(job.baked.net.get_parameter("aux.bias"), fresh.get_parameter("aux.bias"))
    assert not torch.equal(job.baked.net.get_parameter("head.bias"), fresh.get_parameter("head.bias"))
    assert report["after"]["quality"]["accuracy"] > 0
    assert isinstance(condensery.load(tmp_path / "o" / "artifact.safetensors", installed), Two)


def test_a_held_out_part_is_never_trained_on() -> None:
    task = Digits()
    subset = Subset(held_out=0.1)
    assert task.count("validation", subset) == 130  # of 1,297
    assert task.count("train", subset) == 1167
    aside, rest = task.pick("validation", subset).tolist(), task.pick("train", subset).tolist()
    assert sorted(aside + rest) == list(range(1297))
    assert set(task.pick("train", Subset(size=50, held_out=0.1)).tolist()) <= set(rest)
    seen = sum(batch.size for batch in task.batches("validation", batch_size=50, subset=subset))
    assert seen == 130
    with pytest.raises(UsageError, match="'digits' has no validation split; hold out a share"):
        task.count("validation")


@pytest.mark.parametrize(("examples", "steps"), [(32, 2), (33, 2), (34, 3)])
def test_steps_are_the_batches_of_an_epoch(examples: int, steps: int) -> None:
    """A single example that is left over joins the batch before it."""
    task, subset = Digits(), Subset(size=examples)
    assert len(list(task.batches("train", batch_size=16, subset=subset, train=True))) == steps
    assert task.steps("train", batch_size=16, subset=subset) == steps


def test_epochs_are_measured_on_validation_where_it_is_asked_for(tmp_path: Path) -> None:
    stage = {"methods": ["magnitude"], "epochs": 2}
    plain = Run(recipe([stage]), registry(), out=tmp_path / "plain").execute()
    assert [epoch["quality"] for epoch in plain["stages"][0]["history"]] == [{}, {}]
    assert plain["validation"] == {}
    assert plain["after"]["quality"]["accuracy"] > 0

    told = Run(recipe([stage], validation=0.2), registry(), out=tmp_path / "told").execute()
    assert all(epoch["quality"]["errors"] <= 259 for epoch in told["stages"][0]["history"])  # a fifth of 1,297
    assert told["stages"][0]["history"][-1]["quality"] == told["validation"]

    class Asks(Watch):
        asks_quality = True

    asked = Run(recipe([stage]), registry(), out=tmp_path / "asked", observer=Asks()).execute()
    assert asked["recipe"]["validation"] == 0.1
    assert "accuracy" in asked["stages"][0]["history"][0]["quality"]


def test_the_test_split_is_read_once_before_and_once_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    whole = Digits.evaluate

    def watched(self: Digits, model: nn.Module, split: Any, **how: Any) -> dict[str, float]:
        seen.append("try" if how["limit"] else split)
        return whole(self, model, split, **how)

    monkeypatch.setattr(Digits, "evaluate", watched)
    monkeypatch.setenv("CONDENSERY_CACHE", str(tmp_path / "cache"))
    stages = [{"repeat": 2, "until": "errors < 0", "stages": [{"methods": ["magnitude"], "epochs": 1}]}]
    base = {"epochs": 1, "max_steps": 2}
    Run(recipe(stages, base=base, validation=0.1), registry(), out=tmp_path / "o").execute()
    assert seen[0] == "try"
    assert seen.count("test") == 2
    assert set(seen) == {"try", "test", "validation"}


class Broken(Digits):
    key = "broken"

    def meter(self) -> Any:
        raise ZeroDivisionError("nothing to divide by")


class Short(Digits):
    key = "short"
    metrics = (*Digits.metrics, dataclasses.replace(Digits.metrics[0], name="kappa"))


@pytest.mark.parametrize(
    ("task", "says"),
    [
        (Broken, "task 'broken' can't be evaluated: ZeroDivisionError: nothing to divide by"),
        (Short, "task 'short' gives no 'kappa', which its metrics name; it gives accuracy, error, errors, loss"),
    ],
)
def test_a_broken_metric_fails_before_anything_trains(task: type[Digits], says: str, tmp_path: Path) -> None:
    installed = Registry.open([("mine", offering(tasks={task.key: task}))])
    with pytest.raises(UsageError, match=says):
        Run(recipe(["magnitude"], task=task.key), installed, out=tmp_path / "o").execute()
    assert not (tmp_path / "o").exists()


def test_evaluation_keeps_modes_and_follows_the_recipes_layout_and_precision() -> None:
    class Look(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2)

        def forward(self, x: Tensor) -> Tensor:
            out = self.conv(x)
            seen.append((x.is_contiguous(memory_format=torch.channels_last), out.dtype, self.training))
            return torch.mean(out, (2, 3))

    seen: list[tuple[bool, torch.dtype, bool]] = []
    net = Look()
    net.norm.eval()  # as its owner has set it, in a net that trains
    task = Inputs(lambda n: torch.randn(n, 3, 2, 2))
    evaluate(task, net, CPU)
    evaluate(task, net, CPU, precision=Precision("bf16", channels_last=True))
    assert seen == [(False, torch.float32, False), (True, torch.bfloat16, False)]
    assert (net.training, net.norm.training) == (True, False)
    assert not net._forward_pre_hooks


def test_micro_batches_weigh_what_counts_in_them() -> None:
    """Of four examples one counts; in parts of two the gradient is the whole batch's, not half of it."""

    class Some(Inputs):
        ignore_index = 9

    net = nn.Linear(3, 2)
    batch = Batch(torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([1, 9, 9, 9]))
    grads = []
    for parts in (1, 2):
        stage = one_stage(net, Some(lambda n: torch.zeros(n, 3)), accumulate=parts)
        stage.gradients(batch)
        assert net.weight.grad is not None
        grads.append(net.weight.grad.clone())
        net.weight.grad = None
    assert grads[0].any()
    torch.testing.assert_close(grads[0], grads[1])


@pytest.mark.parametrize("train", [{}, {"accumulate": 2}, {"workers": 2}], ids=str)
def test_a_batch_in_which_nothing_counts_is_skipped(train: dict[str, int]) -> None:
    """No step is taken on it, not even by momentum; a worker in whose part nothing counts has no say."""

    class Some(Inputs):
        ignore_index = 9

    net = nn.Linear(3, 2)
    stage = one_stage(net, Some(lambda n: torch.zeros(n, 3)), **train)
    stage.student.optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    inputs = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    weights = []
    for labels in ([1, 0, 9, 9], [9, 9, 9, 9]):
        stage.take_step(Batch(inputs, torch.tensor(labels)))
        weights.append(net.weight.detach().clone())
    assert bool(weights[0].isfinite().all())
    assert torch.equal(*weights)
    counts = Batch(inputs[:2], torch.tensor([1, 0]))
    alone = one_stage(copy.deepcopy(net), stage.task)
    alone.gradients(counts)
    stage.gradients(Batch(inputs, torch.tensor([1, 0, 9, 9])))
    torch.testing.assert_close(net.weight.grad, alone.student.module.get_parameter("weight").grad)


def test_an_epoch_with_a_batch_in_which_nothing_counts_is_distilled(tmp_path: Path) -> None:
    """The first of two batches has no label that counts: the loss is the mean over the other one."""

    class Half(Digits):
        key = "half"
        ignore_index = 77

        def batches(self, split: Any, **how: Any) -> Any:
            for number, batch in enumerate(super().batches(split, **how)):
                gone = split == "train" and number == 0
                yield dataclasses.replace(batch, labels=batch.labels * 0 + 77) if gone else batch

    installed = Registry.open([("mine", offering(tasks={"half": Half}))])
    stage = {"methods": ["hinton-kd"], "teacher": "original", "epochs": 1, "train": {"optimizer": {"lr": 1e-9}}}
    report = Run(recipe([stage], task="half"), installed, out=tmp_path / "o").execute()
    terms = report["stages"][-1]["history"][-1]["terms"]
    assert 0.1 * 1.5 < terms["student.task"] < 0.1 * 4  # a tenth of about log 10, not of half of it
    assert terms["student.hinton-kd.kd"] >= 0


def test_hidden_labels_still_tell_what_counts() -> None:
    """Of four pixels two count. KL((3/4, 1/4) || (1/2, 1/2)) is 0.130812 in one, 0 in the other: 0.065406 is the mean.

    The border's teacher is certain, log 2 from the student each: with it the mean would be 0.379277.
    """

    class Pixels(Inputs):
        ignore_index = 9

    labels = torch.tensor([[[1, 0], [9, 9]]])
    batch = Batch(torch.zeros(1, 1, 2, 2), labels).without_labels(9)
    assert batch.labels is None
    task = Pixels(torch.zeros)
    teacher = torch.tensor([[[[math.log(3), 0.0], [90.0, 90.0]], [[0.0, 0.0], [0.0, 0.0]]]])
    mine, theirs = Outputs(torch.zeros(1, 2, 2, 2), task, batch), Outputs(teacher, task, batch)
    assert float(divergence(mine, softened(theirs.rows, 1.0), 1.0)) == pytest.approx(0.065406, abs=1e-6)
    assert (task.weight(batch), task.loss(mine.tree, batch)) == (2, None)

    # Everyone's part of a batch tells of its own positions, and one of padding alone is none.
    two = Batch(torch.zeros(2, 3), torch.tensor([1, 9])).without_labels(9)
    assert [task.is_empty(two.part(i, i + 1)) for i in range(2)] == [False, True]
    assert task.weight(two.to("cpu")) == 1


def test_a_stage_whose_labels_are_hidden_teaches_no_border(tmp_path: Path) -> None:
    """16 images of 6 x 10 pixels, of which 4 x 8 count: 512 rows of a batch, not 960."""
    rows = []

    class Look(Method):
        key = "look"

        @hookimpl
        def loss_terms(self, outputs: Any, player: Any) -> dict[str, Tensor]:
            rows.append(len(outputs[player.name].rows))
            return {"none": outputs[player.name].rows.sum() * 0}

    installed = Registry.open([("mine", offering(methods={"look": Look}))])
    stage = {"methods": ["look"], "data": {"labels": False, "subset": {"size": 16}}}
    play(recipe([stage], task="brightest", model="pixel-classifier"), installed, tmp_path / "o")
    assert set(rows) == {512, 256}  # the dry run looks at 8 images


def test_what_torch_ignores_by_itself_counts_nowhere_in_given_data() -> None:
    """The second token's label is -100: one row is left, and a batch of its own has the weight of one."""
    net, labels = nn.Linear(3, 2), torch.tensor([1, -100])
    task = given_task({"train": [(torch.zeros(2, 3), labels)]}, net)()
    batch = Batch(torch.zeros(2, 3), labels)
    scores = torch.tensor([[0.0, 1.0], [5.0, 0.0]])
    rows = task.rows(scores, batch)
    assert rows is not None
    assert (rows.tolist(), task.weight(batch)) == ([[0.0, 1.0]], 1)


def test_the_squared_hinge_by_hand() -> None:
    """Scores 0.5 and -2 of class 0: margins 0.5 and none, so (0.25 + 0) / 2; 0 and 0.25 of class 1: (1 + 0.5625) / 2.

    Counted three times, the second one's share is 3/4; gradients are those of a half times the squares of the margins.
    """
    task = Inputs(torch.zeros)
    task.squared_hinge, task.ignore_index = True, 7
    scores = torch.tensor([[0.5, -2.0], [0.0, 0.25], [9.0, 9.0]], dtype=torch.float64, requires_grad=True)
    batch = Batch(None, torch.tensor([0, 1, 7]))

    def loss_of(scores: torch.Tensor) -> torch.Tensor:
        loss = task.loss(scores, batch)
        assert loss is not None
        return loss

    assert loss_of(scores).item() == pytest.approx((0.125 + 0.78125) / 2)
    (slope,) = torch.autograd.grad(loss_of(scores), scores)
    assert slope.flatten().tolist() == pytest.approx([-0.25, 0, 0.5, -0.375, 0, 0])
    assert torch.autograd.gradcheck(loss_of, scores)

    task.class_weights = torch.tensor([1.0, 3.0])
    assert loss_of(scores).item() == pytest.approx(0.125 / 4 + 0.78125 * 3 / 4)
    pixels = scores.detach().T[None]  # one image of three pixels
    assert task.loss(pixels, Batch(None, torch.tensor([[0, 1, 7]]))) == pytest.approx(loss_of(scores).item())
    rows = task.rows(scores, batch)
    assert rows is not None
    assert torch.equal(rows, scores[:2])


def test_a_task_that_ignores_nothing_refuses_the_label_that_torch_would_ignore() -> None:
    with pytest.raises(IndexError, match="-100 is out of bounds"):
        Inputs(torch.zeros).loss(torch.zeros(2, 3), Batch(None, torch.tensor([0, -100])))


def test_a_batch_in_which_nothing_counts_changes_no_figure() -> None:
    class Some(Inputs):
        ignore_index = 9

    meter, scores = Some(torch.zeros).meter(), torch.tensor([[0.0, 1.0]])
    for label in (1, 9):
        meter.update(scores, Batch(scores, torch.tensor([label])))
    found = meter.compute()
    assert (found["accuracy"], found["errors"]) == (100, 0)
    assert found["loss"] == pytest.approx(float(nn.functional.cross_entropy(scores, torch.tensor([1]))))


def one_stage(net: nn.Module, task: Any, **train: Any) -> Stage:
    """Return a stage without methods that trains a net."""
    from condensery.contract import StageManager
    from condensery.recipe import ModelSpec, StageSpec, TrainSpec
    from condensery.run import Defaults, Player

    stage = Stage(StageSpec(name="s"), task, TrainSpec(**train), seed=0, device=CPU)
    stage.players["student"] = Player("student", net, spec=ModelSpec(key="given"), trains=True)
    stage.manager = StageManager("s", [], Defaults())
    stage.ready()
    return stage
