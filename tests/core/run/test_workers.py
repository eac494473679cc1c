"""How a batch is shared between workers, and what they make of it together."""

from __future__ import annotations

import pytest
import torch
from tests.core.helpers import Inputs
from torch import nn

from condensery.errors import UsageError
from condensery.run import Bucket, Processes, Workers
from condensery.tasks import Batch


class Ignoring(Inputs):
    """Labels of -1 don't count."""

    ignore_index = -1


def batch(*labels: int) -> Batch:
    return Batch(torch.arange(2.0 * len(labels)).view(-1, 2), torch.tensor(labels))


def test_a_share_counts_by_what_counts_in_it() -> None:
    """Of three examples two workers have one and two: 2/3 and 4/3, so that the mean over both is that of all three."""
    shares = Workers(2).split(Inputs(torch.zeros), batch(0, 1, 2))
    assert [share.size for share, _ in shares if share is not None] == [1, 2]
    assert [counts for _, counts in shares] == pytest.approx([2 / 3, 4 / 3])
    assert Workers().split(Inputs(torch.zeros), batch(0, 1, 2))[0][1] == 1.0

    first, second = Workers(2).split(Ignoring(torch.zeros), batch(0, 1, -1, -1))
    assert second == (None, 0.0)
    assert first[1] == 2.0


def test_fewer_examples_than_workers() -> None:
    """A simulated worker may have none; a process of several may not, and each of them says so."""
    assert [share is None for share, _ in Workers(3).split(Inputs(torch.zeros), batch(0, 1))] == [False, False, True]
    with pytest.raises(UsageError, match="a batch of 2 has nothing to learn from for one of 3 workers"):
        Workers(1, Processes(1, 3)).split(Inputs(torch.zeros), batch(0, 1))


def test_workers_are_spread_over_processes() -> None:
    assert [list(Workers(3, Processes(rank, 2)).own) for rank in range(2)] == [[0], [1, 2]]
    assert Workers(3, Processes(0, 2)).rows == [1, 2]
    alone = Workers(1, Processes(1, 2))
    assert (alone.count, alone.whole, list(alone.own)) == (2, True, [1])
    assert not Workers(2, Processes(0, 2)).whole


def test_running_statistics_take_the_mean_of_the_workers() -> None:
    """With a momentum of 0.5 the workers make 1 and 3 of a running mean of 0: it becomes 2, and one batch was seen."""
    norm, workers = nn.BatchNorm1d(1, momentum=0.5), Workers(2)
    with workers.turns([norm]) as turns:
        for worker, mean in enumerate((2.0, 6.0)):
            with turns.of(worker):
                norm(torch.tensor([[mean - 1], [mean + 1]]))
    assert norm.running_mean.tolist() == [2.0]  # type: ignore[union-attr]
    assert norm.running_var.tolist() == [0.5 * 1.0 + 0.5 * 2.0]  # type: ignore[union-attr]
    assert int(norm.num_batches_tracked) == 1  # type: ignore[arg-type]


def test_each_worker_draws_by_itself() -> None:
    """And the generator goes on as if one number had been drawn, whatever they drew."""

    def drawn(numbers: int) -> tuple[list[float], float]:
        torch.manual_seed(0)
        seen = []
        with Workers(2).turns([]) as turns:
            for worker in range(2):
                with turns.of(worker):
                    seen.append(float(torch.rand(numbers)[0]))
        return seen, float(torch.rand(()))

    (first, second), after = drawn(1)
    assert first != second
    assert drawn(5) == ([first, second], after)


def test_a_bucket_for_each_gradient_that_any_worker_has() -> None:
    named = {"a": nn.Parameter(torch.zeros(2)), "b": nn.Parameter(torch.zeros(1, 2)), "c": nn.Parameter(torch.zeros(1))}
    told = [{"a": torch.ones(2)}, {"a": torch.ones(2), "b": torch.full((2,), 3.0)}]
    first, second = Workers(2).buckets(named, told)
    assert first.values.tolist() == [[1.0, 1.0], [1.0, 1.0]]
    assert (second.name, tuple(second.shape), second.values.tolist()) == ("b", (1, 2), [[0.0, 0.0], [3.0, 3.0]])
    assert isinstance(second, Bucket)
