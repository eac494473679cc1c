"""Deep deterministic policy gradient: an actor whose actions lie between 0 and 1, and a critic that judges them.

Lillicrap et al.: "Continuous control with deep reinforcement learning", ICLR 2016, with the sizes, the rates and the
baseline of HAQ (Wang et al., CVPR 2019, and its code).
"""

from __future__ import annotations

import copy
from collections import deque
from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

HIDDEN = 300
BATCH = 64
ACTOR_RATE, CRITIC_RATE = 1e-4, 1e-3
DISCOUNT, FOLLOW = 1.0, 0.01
"""How much a later value counts, and which share of the way the targets follow the nets after each update."""
ALPHA = 0.5
"""Share of the way that the baseline goes to a batch's mean reward."""


class Transition(NamedTuple):
    """One step of an episode.

    :param state: what the actor saw, ``(features,)``.
    :param action: what it did, ``(1,)``.
    :param reward: of the whole episode, ``(1,)``.
    :param following: the state after it.
    :param goes_on: 0 at the last step, else 1, ``(1,)``.
    """

    state: Tensor
    action: Tensor
    reward: Tensor
    following: Tensor
    goes_on: Tensor


class DDPG:
    """Actor and critic, slower copies of both as targets, and a memory of steps.

    :param features: of a state.
    :param capacity: steps that the memory holds; the oldest go first.
    :param seed: of the initial weights.
    """

    def __init__(self, features: int, capacity: int, seed: int, hidden: int = HIDDEN) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.actor = nn.Sequential(*_layers(features, hidden), nn.Sigmoid())
            self.critic = nn.Sequential(*_layers(features + 1, hidden))
        self.actor_target, self.critic_target = copy.deepcopy(self.actor), copy.deepcopy(self.critic)
        self.actor_optimizer = torch.optim.Adam(self.actor.parameters(), lr=ACTOR_RATE)
        self.critic_optimizer = torch.optim.Adam(self.critic.parameters(), lr=CRITIC_RATE)

        self.memory: deque[Transition] = deque(maxlen=capacity)
        self.baseline: float | None = None

    @torch.no_grad()
    def act(self, state: Tensor, deviation: float, draws: Generator) -> float:
        """Return the actor's action with noise: from a normal distribution that is cut off at 0 and 1.

        :param state: ``(features,)``.
        """
        mean = float(self.actor(state))
        noisy = torch.empty(())
        nn.init.trunc_normal_(noisy, mean, deviation, 0.0, 1.0, generator=draws)
        return float(noisy)

    def learn(self, draws: Generator) -> None:
        """Draw steps from the memory and update critic, actor and targets once."""
        chosen = torch.randperm(len(self.memory), generator=draws)[:BATCH].tolist()
        self.update(Transition(*(torch.stack(parts) for parts in zip(*(self.memory[i] for i in chosen), strict=True))))

    def update(self, batch: Transition) -> None:
        """Update critic, actor and targets on a batch of steps, each field ``(steps, ...)``.

        The critic goes to reward - baseline + value of the next state, as the targets see it; then the actor goes where
        the critic finds its actions better.
        """
        mean = float(batch.reward.mean())
        self.baseline = mean if self.baseline is None else self.baseline + ALPHA * (mean - self.baseline)
        with torch.no_grad():
            later = self.critic_target(_beside(batch.following, self.actor_target(batch.following)))
            wanted = batch.reward - self.baseline + DISCOUNT * batch.goes_on * later

        value = self.critic(_beside(batch.state, batch.action))
        _step(self.critic_optimizer, functional.mse_loss(value, wanted))
        _step(self.actor_optimizer, -self.critic(_beside(batch.state, self.actor(batch.state))).mean())

        for target, net in ((self.actor_target, self.actor), (self.critic_target, self.critic)):
            for slow, fast in zip(target.parameters(), net.parameters(), strict=True):
                slow.data.lerp_(fast.data, FOLLOW)


def _layers(inputs: int, hidden: int) -> list[nn.Module]:
    return [nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 1)]


def _beside(state: Tensor, action: Tensor) -> Tensor:
    return torch.cat([state, action], 1)


def _step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
