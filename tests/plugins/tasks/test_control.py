"""Games: what they show, what moves are worth, and what a net earns."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

from condensery import Batch, UsageError
from condensery_plugins.models import policies
from condensery_plugins.tasks.control import NO_ACTION, Acrobot, CartPole, Control
from condensery_plugins.tasks.games import Games


def linear(*rows: list[float]) -> nn.Module:
    """Return a net whose values of the actions are these sums of what is seen."""
    net = nn.Linear(len(rows[0]), len(rows), bias=False)
    with torch.no_grad():
        net.weight.copy_(torch.tensor(rows))
    return net


def test_a_game_that_is_over_begins_anew_and_shows_its_end() -> None:
    """A cart that is always pushed to the right lets its pole fall, beyond 12 degrees."""
    tables = Games("CartPole-v1", [3, 4])
    first = tables.seen.clone()
    moves = 0
    while True:
        moved, moves = tables.move(torch.ones(2, dtype=torch.long)), moves + 1
        assert moved.earned.tolist() == [1, 1]
        if moved.over[0]:
            break
    assert 5 < moves < 15
    assert moved.lost[0]
    assert abs(float(moved.seen[0, 2])) > 12 * torch.pi / 180
    assert abs(float(tables.seen[0, 2])) <= 0.05, "a new game, whose pole stands"

    again = Games("CartPole-v1", [3, 4])
    assert torch.equal(again.seen, first)
    assert not torch.equal(first[0], first[1])


def test_labels_are_actions_and_what_was_earned_after_them() -> None:
    """Two moves at each of eight tables, which no pole falls in: 1 + 0.99, then 1."""
    inputs, labels = CartPole(16).split("train")
    assert inputs["seen"].shape == (16, 4)
    assert labels[:8, 1].tolist() == pytest.approx([1.99] * 8)
    assert labels[8:, 1].tolist() == pytest.approx([1] * 8)
    assert set(labels[:, 0].tolist()) == {0, 1}
    assert not torch.equal(CartPole(16).split("test")[0]["seen"], inputs["seen"])


def test_what_is_earned_ends_with_the_game() -> None:
    values = CartPole(800).split("train")[1][:, 1]
    assert float(values.max()) < 100, "at random no pole stands for long"
    assert 30 < int((values == 1).sum()) < 100, "each of the eight tables saw several ends"


def test_a_good_player_earns_more_than_a_bad_one() -> None:
    """Pushing the cart to where the pole falls keeps it up; the worst swing of the double pendulum earns -500."""
    task = CartPole()
    falls, right = linear([0.0, 0, -1, -1], [0.0, 0, 1, 1]), linear([0.0, 0, 0, 0], [0.0, 0, 0, 0])
    assert task.evaluate(right, "test")["return"] < 12
    assert 100 < task.evaluate(falls, "test")["return"] <= 500
    assert task.evaluate(falls, "test") == task.evaluate(falls, "test") != task.evaluate(falls, "validation")
    assert Acrobot().evaluate(linear(*[[0.0] * 6] * 3), "test", limit=1) == {"return": -500}


def test_the_loss_is_of_the_action_that_was_taken() -> None:
    """Huber's: half the square of 0.5, and 3 - 1/2."""
    task = CartPole()
    batch = Batch(torch.zeros(2, 4), torch.tensor([[1.0, 2.5], [0.0, 1.0]]))
    loss = task.loss(torch.tensor([[9.0, 2.0], [4.0, 9.0]]), batch)
    assert loss is not None
    assert float(loss) == pytest.approx((0.125 + 2.5) / 2)


def test_one_net_for_both_games_has_a_head_for_each() -> None:
    task = Control(16)
    net = policies.build(task.facts, "policies", hidden=[8], own=[4])
    assert isinstance(net, policies.Policies)
    seen = task.split("train")[0]["seen"]
    assert seen.shape == (32, 8)
    assert seen[0, 4:].tolist() == [0, 0, 1, 0]
    assert seen[-1, 6:].tolist() == [0, 1]

    with torch.no_grad():
        values = task.outputs(net, Batch(seen))
        shared = net.trunk(seen[:, :6])
        torch.testing.assert_close(values[16:], net.heads[1](shared[16:]))
        torch.testing.assert_close(values[:16, :2], net.heads[0](shared[:16])[:, :2])
    assert set(values[:16, 2].tolist()) == {NO_ACTION}
    assert set(task.choose(net, 0, torch.randn(200, 4)).tolist()) <= {0, 1}


def test_nets_without_a_trunk_share_nothing() -> None:
    task = Control(16)
    net = policies.build(task.facts, "policies", hidden=[], own=[4])
    named = dict(net.named_parameters())
    total = task.outputs(net, Batch(task.split("train")[0]["seen"][:16])).sum()
    gradients = torch.autograd.grad(total, list(named.values()), allow_unused=True)
    moved = [name for name, g in zip(named, gradients, strict=True) if g is not None and bool(g.any())]
    assert moved
    assert all(name.startswith("heads.0.") for name in moved)


def test_gymnasium_is_asked_for_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    task = CartPole()
    assert task.example(2).shape == (2, 4)
    with pytest.raises(
        UsageError, match=r"'CartPole-v1' needs the package 'gymnasium': pip install 'condensery\[rl\]'"
    ):
        task.split("train")


def test_too_few_moves_are_refused() -> None:
    with pytest.raises(UsageError, match="cartpole: moves must be at least 8, got 7"):
        CartPole(7)
