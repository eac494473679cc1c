from __future__ import annotations

import itertools

import pytest
import torch

from condensery import Registry, UsageError
from condensery.nets import build_net
from condensery.recipe import ModelSpec, TaskSpec
from condensery.tasks import Batch, Subset, build_task
from condensery_plugins.tasks.monk import NOISY, TRAIN, VALUES, Monk, one_hot

EXAMPLES = list(itertools.product(*[range(1, n + 1) for n in VALUES]))


def rule(problem: int, a: tuple[int, ...]) -> bool:
    """The rules as sentences: a1 is the first attribute."""
    a1, a2, _, a4, a5, _ = a
    if problem == 1:
        return a1 == a2 or a5 == 1
    if problem == 2:
        return sum(value == 1 for value in a) == 2
    return (a5 == 3 and a4 == 1) or (a5 != 4 and a2 != 3)


@pytest.mark.parametrize(("problem", "positive"), [(1, 216), (2, 142), (3, 228)])
def test_the_test_split_is_every_example_with_the_rules_answer(problem: int, positive: int) -> None:
    stored, labels = Monk(problem).load("test")
    found = [tuple(row) for row in stored["attributes"].tolist()]
    assert found == EXAMPLES
    assert labels.tolist() == [int(rule(problem, a)) for a in found]
    assert int(labels.sum()) == positive


@pytest.mark.parametrize("problem", [1, 2, 3])
def test_training_examples_are_fixed_different_and_noisy_only_in_the_third(problem: int) -> None:
    task = Monk(problem)
    stored, labels = task.load("train")
    rows = [tuple(row) for row in stored["attributes"].tolist()]
    assert len(set(rows)) == len(rows) == task.count("train") == TRAIN[problem]
    wrong = sum(int(rule(problem, a)) != y for a, y in zip(rows, labels.tolist(), strict=True))
    assert wrong == NOISY[problem] == {1: 0, 2: 0, 3: round(0.05 * 122)}[problem]
    assert torch.equal(Monk(problem).load("train")[0]["attributes"], stored["attributes"])


def test_counts_without_reading() -> None:
    task = Monk(2)
    assert (task.count("train"), task.count("test")) == (169, 432)
    assert not task._splits
    assert task.count("train", Subset(per_class=4)) == 8


def test_inputs_by_hand() -> None:
    """Values 3, 1, 2, 3, 4, 1 of attributes with 3, 3, 2, 3, 4 and 2 values."""
    row = one_hot(torch.tensor([[3, 1, 2, 3, 4, 1]]))
    assert row.tolist() == [[0, 0, 1, 1, 0, 0, 0, 1, 0, 0, 1, 0, 0, 0, 1, 1, 0]]
    task = Monk()
    assert task.example(3).shape == next(task.batches("test", batch_size=3)).inputs.shape == (3, 17)
    assert task.example(3).sum(1).tolist() == [6.0] * 3


def test_loss_and_score_by_hand() -> None:
    """Outputs 0.9, 0.4, 0.6 for 1, 1, 0: squared errors 0.01, 0.36, 0.36, half their mean; two are wrong."""
    task, logits, labels = Monk(), torch.tensor([[0.9], [0.4], [0.6]]), torch.tensor([1, 1, 0])
    batch = Batch(None, labels)
    loss = task.loss(logits, batch)
    assert loss is not None
    assert float(loss) == pytest.approx(0.73 / 6)
    meter = task.meter()
    meter.update(logits, batch)
    found = meter.compute()
    assert found == {
        "accuracy": pytest.approx(100 / 3),
        "error": pytest.approx(200 / 3),
        "errors": 2.0,
        "loss": pytest.approx(0.73 / 6),
    }
    assert set(found) == {m.name for m in Monk.metrics}
    assert task.loss(logits, Batch(None)) is None


def test_the_papers_nets_have_58_and_39_weights() -> None:
    registry = Registry.open()
    for hidden, weights in ((3, 58), (2, 39)):
        spec = ModelSpec.model_validate(
            {"key": "mlp", "hidden": [hidden], "activation": "sigmoid", "output": "sigmoid"}
        )
        net = build_net(spec, Monk().facts, registry, 0)
        assert sum(p.numel() for p in net.parameters()) == weights


def test_problems_are_told_apart_and_a_fourth_is_refused() -> None:
    assert Monk(1).describe() != Monk(2).describe()
    assert build_task(TaskSpec.model_validate({"key": "monk", "problem": 3}), Registry.open()).count("train") == 122
    with pytest.raises(UsageError, match="problem must be 1, 2 or 3, got 4"):
        Monk(4)
    with pytest.raises(UsageError, match="model 'resnet8' takes images, the task gives vectors"):
        build_net(ModelSpec(key="resnet8"), Monk().facts, Registry.open(), 0)
