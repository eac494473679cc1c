"""One net for several games: a trunk that they share, and a head for each.

Rusu et al.: "Policy Distillation", ICLR 2016 [68]: a linear layer and an output layer per game.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from condensery.tasks import TaskFacts
from condensery_plugins.models.facts import builder, scaled


class Policies(nn.Module):
    """Linear layers with ReLU.

    :param inputs: numbers that a game shows.
    :param games: how many there are; 0: there is one, and no input says which.
    :param shared: units of the layers that all games share; without one, each game has a net of its own.
    :param own: units of the layers of each game.
    """

    def __init__(self, inputs: int, games: int, shared: Sequence[int], own: Sequence[int], outputs: int) -> None:
        super().__init__()
        self.games = games
        self.trunk = _layers([inputs, *shared])
        width = shared[-1] if shared else inputs
        heads = [
            nn.Sequential(*_layers([width, *own]), nn.Linear([width, *own][-1], outputs)) for _ in range(games or 1)
        ]
        self.heads = nn.ModuleList(heads)

        stages = [f"trunk.{number}" for number in range(1, len(self.trunk), 2)]
        self.roles = {"stages": stages or ["heads"], "logits": [f"heads.{n}.{len(h) - 1}" for n, h in enumerate(heads)]}

    def forward(self, x: Tensor) -> Tensor:
        """Return the values of actions, ``(batch, actions)``, by the head of each example's game.

        :param x: ``(batch, inputs + games)``; the last numbers are 1 for the game and 0 for the others.
        """
        inputs = x.shape[1] - self.games
        shared = self.trunk(x[:, :inputs])
        if not self.games:
            return self.heads[0](shared)  # type: ignore[no-any-return]
        values = torch.stack([head(shared) for head in self.heads], 1)
        return (values * x[:, inputs:, None]).sum(1)


def _layers(sizes: Sequence[int]) -> nn.Sequential:
    pairs = itertools.pairwise(sizes)
    return nn.Sequential(*[layer for before, after in pairs for layer in (nn.Linear(before, after), nn.ReLU())])


@builder("vector")
def build(
    facts: TaskFacts, name: str, *, hidden: Sequence[int] = (64,), own: Sequence[int] = (32,), width: float = 1.0
) -> nn.Module:
    """Build a net for the games of a task.

    :param hidden: units of the shared layers, before ``width``.
    :param own: units of each game's layers, before ``width``.
    """
    shared, each = ([scaled(width, units) for units in sizes] for sizes in (hidden, own))
    return Policies(facts.size - facts.channels, facts.channels, shared, each, facts.outputs)
