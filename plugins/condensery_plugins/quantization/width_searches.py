"""Searches for the bit widths of layers: HAQ's agent, and greedy steps as a control."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Generator, Tensor

from condensery.recipe import derive_seed
from condensery.run import Proposal, Search, Trial, best_trials
from condensery_plugins.quantization.ddpg import DDPG, Transition

WIDTHS = "widths"
"""Where a trial's report says the widths that it was scored with: those that were proposed, within the budget."""
REMEMBERED = 128
"""Episodes that the agent's memory holds."""
SCALE = 0.1
DEVIATION, DECAY = 0.5, 0.99
"""Of the noise on the first action that is not drawn at random, and by what it shrinks from episode to episode."""


def width_of(action: float, low: int, high: int) -> int:
    """Return the bits that an action from 0 to 1 stands for: each width has an equally long part of the line."""
    return min(max(round(low - 0.5 + action * (high - low + 1)), low), high)


@dataclass(eq=False, kw_only=True)
class WidthAgent(Search):
    """Goes through the layers in their order, once a trial, and learns by DDPG which widths score well.

    A state is what a step's layer is like, and the width that the step before chose as a share of the largest one. The
    reward, for each step of an episode alike, is a tenth of the score less that of the net in floats. The memory holds
    the actions as they were, not what the budget made of them. What is learnt from a trial depends on the seed, the
    trials and their notes alone.

    :param features: of each step, in the order of the space's parameters: ``(steps, features)``.
    :param reference: the score of the net in floats.
    :param warmup: trials whose actions are drawn at random, before anything is learnt.
    """

    features: Tensor
    reference: float
    warmup: int
    ended_: list[Trial] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        """Make an agent that knows nothing."""
        steps, size = self.features.shape
        self.agent_ = DDPG(size + 1, REMEMBERED * steps, derive_seed("agent", self.seed) % 2**32)

    def observe(self, trial: Trial) -> None:
        """Note a trial; the agent learns from it before the next proposal, if there is one."""
        self.ended_.append(trial)

    def propose(self, history: Sequence[Trial]) -> Proposal:
        """Let the agent decide on the width of each step's layer."""
        for trial in self.ended_:
            self._learn(trial)
        self.ended_.clear()

        draws, episode = self._draws("act", len(history)), len(history) - self.warmup
        actions: list[float] = []
        for step in range(len(self.features)):
            state = self._states(actions)[step]
            if episode < 0:
                actions.append(float(torch.rand((), generator=draws)))
            else:
                actions.append(self.agent_.act(state, DEVIATION * DECAY**episode, draws))
        return Proposal(dict(zip(self.space.parameters, self._widths(actions), strict=True)), {"actions": actions})

    def _learn(self, trial: Trial) -> None:
        """Remember a trial's steps, and after the warm-up update the agent once for each."""
        if trial.state != "complete":
            return
        (direction,), (score,) = self.space.objectives.values(), trial.values
        gain = (score - self.reference) * (1 if direction == "maximize" else -1)
        actions = trial.notes["actions"]
        states, last = self._states(actions), len(actions) - 1
        draws = self._draws("learn", trial.number)

        for step, action in enumerate(actions):
            one = [torch.tensor([number]) for number in (action, SCALE * gain, float(step < last))]
            following = states[min(step + 1, last)]
            self.agent_.memory.append(Transition(states[step], one[0], one[1], following, one[2]))
            if trial.number >= self.warmup:
                self.agent_.learn(draws)

    def _states(self, actions: Sequence[float]) -> Tensor:
        """Return the state of each step, as far as the actions before it are known: ``(steps, features + 1)``.

        Before the first step, and where no action is known yet, the width is the largest one.
        """
        highest = max(self._bounds(name)[1] for name in self.space.parameters)
        before = [1.0, *(width / highest for width in self._widths(actions))][: len(self.features)]
        before += [1.0] * (len(self.features) - len(before))
        return torch.cat([self.features, torch.tensor(before)[:, None]], 1)

    def _widths(self, actions: Sequence[float]) -> list[int]:
        """Return the widths that the actions of the first steps stand for."""
        return [width_of(a, *self._bounds(name)) for a, name in zip(actions, self.space.parameters, strict=False)]

    def _bounds(self, name: str) -> tuple[int, int]:
        one = self.space.parameters[name]
        return int(one.low or 0), int(one.high or 0)

    def _draws(self, what: str, number: int) -> Generator:
        """Return a generator of a trial's own, so that a search that was killed goes on as it would have."""
        return Generator().manual_seed(derive_seed("agent", what, self.seed, number))


@dataclass(eq=False, kw_only=True)
class GreedyWidths(Search):
    """Begins with the largest widths within the budget, and goes on from the best so far: one width by one bit.

    It ends where no such step is left that wasn't tried.
    """

    def propose(self, history: Sequence[Trial]) -> Proposal | None:
        """Draw one step away from the best trial's widths."""
        bounds = {name: (int(p.low or 0), int(p.high or 0)) for name, p in self.space.parameters.items()}
        best = best_trials(self.space, history)
        if not best or best[0].report is None:
            return Proposal({name: high for name, (_, high) in bounds.items()})

        now = {name: best[0].report[WIDTHS][name] for name in bounds}
        tried = [trial.overrides for trial in history]
        steps = [now | {name: now[name] + step} for name in now for step in (-1, 1)]
        left = [p for p in steps if p not in tried and all(low <= p[n] <= high for n, (low, high) in bounds.items())]
        return Proposal(random.Random(f"{self.seed}:{len(history)}").choice(left)) if left else None
