from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from condensery.errors import UsageError
from condensery.tasks import Split, Subset, TaskFacts
from condensery_plugins.tasks.tensors import Stored, TensorTask


class Numbers(TensorTask):
    """Examples are their own numbers; the label is the number modulo 5, or a float for a regression."""

    key = "numbers"
    facts = TaskFacts("image", outputs=5, channels=1, size=1)

    def __init__(self, examples: int = 23, regression: bool = False) -> None:
        super().__init__()
        self.examples, self.regression, self.reads = examples, regression, 0

    def load(self, split: Split) -> Stored:
        self.reads += 1
        numbers = torch.arange(self.examples)
        return {"numbers": numbers}, numbers / 2 if self.regression else numbers % 5

    def inputs(self, stored: Mapping[str, Tensor], index: Tensor, noise: Mapping[str, Tensor]) -> Tensor:
        return stored["numbers"][index] * 1000 + noise.get("noise", torch.zeros(len(index), dtype=torch.long))

    def noise(self, examples: int, generator: torch.Generator) -> dict[str, Tensor]:
        return {"noise": torch.randint(0, 1000, (examples,), generator=generator)}

    def example(self, batch_size: int = 2) -> Tensor:
        return torch.zeros(batch_size)


def epoch(task: Numbers, seed: int, size: int = 4, subset: Subset | None = None) -> tuple[Tensor, Tensor]:
    batches = list(task.batches("train", batch_size=size, seed=seed, subset=subset, train=True))
    assert all(b.labels is not None for b in batches)
    return torch.cat([b.inputs for b in batches]), torch.cat([b.labels for b in batches if b.labels is not None])


def test_an_epoch_holds_every_example_once_with_its_label() -> None:
    inputs, labels = epoch(Numbers(), seed=3)
    numbers = inputs // 1000
    assert sorted(numbers.tolist()) == list(range(23))
    assert numbers.tolist() != list(range(23))
    assert torch.equal(labels, numbers % 5)


def test_the_seed_fixes_order_and_noise() -> None:
    assert torch.equal(epoch(Numbers(), seed=3)[0], epoch(Numbers(), seed=3)[0])
    assert not torch.equal(epoch(Numbers(), seed=3)[0], epoch(Numbers(), seed=4)[0])


def test_the_batch_size_changes_neither_order_nor_noise() -> None:
    assert torch.equal(epoch(Numbers(), seed=3, size=4)[0], epoch(Numbers(), seed=3, size=7)[0])


def test_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    epoch(Numbers(), seed=3)
    assert torch.equal(before, torch.get_rng_state())


def test_outside_of_training_the_order_is_the_stored_one() -> None:
    batches = list(Numbers().batches("test", batch_size=10, seed=9))
    assert [b.size for b in batches] == [10, 10, 3]
    assert torch.cat([b.inputs for b in batches]).tolist() == [1000 * i for i in range(23)]


@pytest.mark.parametrize(("examples", "sizes"), [(8, [4, 4]), (9, [4, 5]), (10, [4, 4, 2]), (1, [1])])
def test_a_single_example_left_over_joins_the_last_training_batch(examples: int, sizes: list[int]) -> None:
    task = Numbers(examples)
    assert [b.size for b in task.batches("train", batch_size=4, train=True)] == sizes
    assert sum(b.size for b in task.batches("train", batch_size=4)) == examples


def test_a_split_is_read_once_and_only_when_it_is_needed() -> None:
    task = Numbers()
    assert task.reads == 0
    epoch(task, 0)
    epoch(task, 1)
    assert task.reads == 1


def test_subsets() -> None:
    task = Numbers()
    subset = Subset(per_class=2, without=(3,))
    assert task.count("train", subset) == 8
    inputs, labels = epoch(task, 1, subset=subset)
    assert labels.bincount(minlength=5).tolist() == [2, 2, 2, 0, 2]
    assert sorted((inputs // 1000).tolist()) == sorted((epoch(task, 2, subset=subset)[0] // 1000).tolist())
    assert task.count("train", Subset(size=7)) == 7
    assert task.count("train") == 23


def test_a_regression_has_no_classes_to_pick() -> None:
    task = Numbers(regression=True)
    assert task.count("train", Subset(size=7)) == 7
    with pytest.raises(UsageError, match="regression and has no classes; use size"):
        task.count("train", Subset(per_class=1))
