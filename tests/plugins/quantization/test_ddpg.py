"""One update of actor and critic, worked out by hand in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from condensery_plugins.quantization.ddpg import ACTOR_RATE, CRITIC_RATE, DDPG, Transition

STEPS, FEATURES, HIDDEN = 5, 3, 4
Layers = list[tuple[Any, Any]]
"""Weight and bias of each layer, as arrays."""


def agent() -> DDPG:
    """Return a small agent in float64, whose targets differ from its nets."""
    made, other = (DDPG(FEATURES, 10, seed, hidden=HIDDEN) for seed in (1, 2))
    made.actor_target, made.critic_target = other.actor, other.critic
    for net in (made.actor, made.critic, made.actor_target, made.critic_target):
        net.double()
    return made


def batch() -> Transition:
    draws = torch.Generator().manual_seed(3)

    def drawn(width: int) -> Tensor:
        return torch.rand(STEPS, width, generator=draws, dtype=torch.float64)

    goes_on = torch.tensor([[1.0], [1.0], [0.0], [1.0], [0.0]], dtype=torch.float64)
    return Transition(drawn(FEATURES), drawn(1), -drawn(1), drawn(FEATURES), goes_on)


def layers(net: nn.Module) -> Layers:
    linear = [module for module in net.modules() if isinstance(module, nn.Linear)]
    return [(m.weight.detach().numpy().copy(), m.bias.detach().numpy().copy()) for m in linear]


def forward(net: Layers, x: Any) -> tuple[Any, list[Any]]:
    """Return the last layer's output, and what each layer was given."""
    seen = [x]
    for weight, bias in net[:-1]:
        seen.append(np.maximum(seen[-1] @ weight.T + bias, 0))
    weight, bias = net[-1]
    return seen[-1] @ weight.T + bias, seen


def backward(net: Layers, seen: list[Any], error: Any) -> tuple[Layers, Any]:
    """Return the gradients of weights and biases, and of the net's input, for that of its output."""
    grads = []
    for number in reversed(range(len(net))):
        grads.append((error.T @ seen[number], error.sum(0)))
        error = error @ net[number][0]
        if number:
            error = error * (seen[number] > 0)
    return grads[::-1], error


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def stepped(net: Layers, grads: Layers, rate: float) -> Layers:
    """Return a net after Adam's first step: rate * g / (|g| + 1e-8)."""
    assert all(np.abs(g).max() > 0 for pair in grads for g in pair)
    return [
        tuple(p - rate * g / (np.abs(g) + 1e-8) for p, g in zip(layer, pair, strict=True))
        for layer, pair in zip(net, grads, strict=True)
    ]


def assert_near(net: nn.Module, wanted: Layers) -> None:
    for mine, theirs in zip(layers(net), wanted, strict=True):
        for a, b in zip(mine, theirs, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)


def test_one_update_by_hand() -> None:
    """Critic: to r - mean(r) + goes_on * Q'(s', mu'(s')); actor: up the new critic; targets follow by 1 %."""
    made, steps = agent(), batch()
    actor, critic, slow_actor, slow_critic = map(
        layers, (made.actor, made.critic, made.actor_target, made.critic_target)
    )
    state, action, reward, following, goes_on = (field.numpy() for field in steps)
    made.update(steps)

    later, _ = forward(slow_critic, np.hstack([following, sigmoid(forward(slow_actor, following)[0])]))
    wanted = reward - reward.mean() + goes_on * later
    value, seen = forward(critic, np.hstack([state, action]))
    grads, _ = backward(critic, seen, 2 * (value - wanted) / STEPS)
    critic = stepped(critic, grads, CRITIC_RATE)
    assert_near(made.critic, critic)

    raw, seen_by_actor = forward(actor, state)
    chosen = sigmoid(raw)
    _, seen = forward(critic, np.hstack([state, chosen]))
    _, of_input = backward(critic, seen, np.full((STEPS, 1), -1 / STEPS))
    grads, _ = backward(actor, seen_by_actor, of_input[:, -1:] * chosen * (1 - chosen))
    actor = stepped(actor, grads, ACTOR_RATE)
    assert_near(made.actor, actor)

    for slow, fast, net in ((slow_actor, actor, made.actor_target), (slow_critic, critic, made.critic_target)):
        followed = [
            tuple(0.99 * s + 0.01 * f for s, f in zip(a, b, strict=True)) for a, b in zip(slow, fast, strict=True)
        ]
        assert_near(net, followed)


def test_gradients_of_both_nets() -> None:
    made, steps = agent(), batch()
    state, action = steps.state.requires_grad_(), steps.action.requires_grad_()
    assert torch.autograd.gradcheck(made.actor, (state,))
    assert torch.autograd.gradcheck(lambda s, a: made.critic(torch.cat([s, a], 1)), (state, action))


def test_the_baseline_goes_half_of_the_way_to_each_mean() -> None:
    made, steps = agent(), batch()
    made.update(steps._replace(reward=torch.full((STEPS, 1), -3.0, dtype=torch.float64)))
    assert made.baseline == -3.0
    made.update(steps._replace(reward=torch.full((STEPS, 1), -1.0, dtype=torch.float64)))
    assert made.baseline == -2.0


def test_actions_lie_around_the_actors_own() -> None:
    made = DDPG(FEATURES, 10, seed=1)
    state = torch.ones(FEATURES)
    mean = float(made.actor(state).detach())
    draws = torch.Generator().manual_seed(0)
    assert 0.1 < mean < 0.9
    assert made.act(state, 1e-4, draws) == pytest.approx(mean, abs=1e-3)
    wide = [made.act(state, 0.5, draws) for _ in range(200)]
    assert 0 <= min(wide) < 0.2
    assert 0.8 < max(wide) <= 1


def test_it_learns_which_action_is_rewarded() -> None:
    """One step an episode, reward -|a - 0.8|: the actor comes from the middle near to 0.8."""
    made = DDPG(1, 500, seed=0)
    draws, state = torch.Generator().manual_seed(0), torch.zeros(1)
    assert abs(float(made.actor(state).detach()) - 0.8) > 0.2
    for _ in range(200):
        action = torch.rand(1, generator=draws)
        made.memory.append(Transition(state, action, -(action - 0.8).abs(), state, torch.zeros(1)))
        made.learn(draws)
    assert float(made.actor(state).detach()) == pytest.approx(0.8, abs=0.1)
