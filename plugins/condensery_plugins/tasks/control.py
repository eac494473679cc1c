"""Classic control: a net gives the value of each action, and its quality is what it earns by the best ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from condensery import Batch, UsageError
from condensery.tasks import Accumulated, Metric, Split, Subset, TaskFacts
from condensery_plugins.tasks.games import Games
from condensery_plugins.tasks.tensors import Stored, TensorTask


@dataclasses.dataclass(frozen=True)
class Kind:
    """One kind of game.

    :param size: how many numbers it shows.
    :param actions: how many there are.
    """

    size: int
    actions: int


CARTPOLE, ACROBOT = "CartPole-v1", "Acrobot-v1"
KINDS = {CARTPOLE: Kind(4, 2), ACROBOT: Kind(6, 3)}
EPISODES, TABLES = 20, 8
"""How many games quality is a mean of, and how many are played side by side for training examples."""
FIRST_SEEDS: dict[Split, int] = {"train": 0, "validation": 1_000_000, "test": 2_000_000}
NO_ACTION = -1e4
"""Value of an action that a game doesn't have: below all that a game can earn."""


class Control(TensorTask):
    """Balance a pole on a cart and swing up a double pendulum, one net for both; quality is the mean return.

    Barto, Sutton, Anderson: "Neuronlike Adaptive Elements That Can Solve Difficult Learning Control Problems", 1983;
    Sutton: "Generalization in Reinforcement Learning", NIPS 1995; as Gymnasium has them, at most 500 moves a game.

    Inputs are what a game shows, padded with zeros to ``facts.size``; where there are several games, the last
    ``facts.channels`` of the numbers tell by a 1 which one it is. Outputs are the values of the actions; those that a
    game lacks get -10,000. Softened, they are a policy, so that they are the task's rows.

    Examples are moves of a random player. A label, ``(2,)``, is the action and what was earned from there on,
    discounted; the loss is Huber's of the action's value, the mean over examples. A net that is trained so plays better
    than at random, as it looks one move ahead. What methods play themselves comes with labels of the same form.

    :param moves: training examples of each game; the other splits have as many.
    """

    key = "control"
    games: ClassVar[tuple[str, ...]] = (CARTPOLE, ACROBOT)
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("return", "reward", True),
        Metric("return_cartpole", "reward", True),
        Metric("return_acrobot", "reward", True),
    )
    splits = ("train", "validation", "test")
    default_model = "policies"
    base = {
        "epochs": 20,
        "batch_size": 64,
        "optimizer": {"name": "adam", "lr": 0.001},
        "schedule": {"name": "cosine"},
    }
    discount: ClassVar[float] = 0.99

    def __init__(self, moves: int = 4096) -> None:
        super().__init__()
        if moves < TABLES:
            raise UsageError(f"task {self.key}: moves must be at least {TABLES}, got {moves}")
        self.moves = moves
        self.kinds = [KINDS[name] for name in self.games]
        several = len(self.games) if len(self.games) > 1 else 0
        self.facts = TaskFacts(
            "vector",
            outputs=max(kind.actions for kind in self.kinds),
            size=max(kind.size for kind in self.kinds) + several,
            channels=several,
        )
        self.sizes = dict.fromkeys(self.splits, moves // TABLES * TABLES * len(self.games))

    # ---------------------------------------------------------------- examples

    def load(self, split: Split) -> Stored:
        """Play at random."""
        parts = [self._at_random(game, FIRST_SEEDS[split]) for game in range(len(self.games))]
        seen, labels = (torch.cat(side) for side in zip(*parts, strict=True))
        return {"seen": seen}, labels

    def _at_random(self, game: int, first_seed: int) -> tuple[Tensor, Tensor]:
        """Return what a random player met, ``(moves, size)``, and the labels of its moves, ``(moves, 2)``."""
        tables = self.tables(game, first_seed, TABLES)
        draw = torch.Generator().manual_seed(first_seed)
        seen, actions, earned, over = [], [], [], []
        for _ in range(self.moves // TABLES):
            seen.append(self.shown(game, tables.seen))
            actions.append(torch.randint(self.kinds[game].actions, (TABLES,), generator=draw))
            moved = tables.move(actions[-1])
            earned.append(moved.earned)
            over.append(moved.over)

        values, later = [], torch.zeros(TABLES)
        for reward, end in zip(reversed(earned), reversed(over), strict=True):
            later = reward + self.discount * later * ~end
            values.append(later)
        labels = torch.stack([torch.cat(actions).float(), torch.cat(values[::-1])], 1)
        return torch.cat(seen), labels

    def inputs(self, stored: Mapping[str, Tensor], index: Tensor, noise: Mapping[str, Tensor]) -> Tensor:
        """Return what games show, ``(batch, size)``."""
        return stored["seen"][index]

    def example(self, batch_size: int = 2) -> Tensor:
        """Return random numbers in place of what the first game shows."""
        size = self.kinds[0].size
        return self.shown(0, torch.randn(batch_size, size, generator=torch.Generator().manual_seed(0)))

    # ---------------------------------------------------------------- a net's answer

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the value of each action, ``(batch, actions)``."""
        values: Tensor = model(batch.inputs)
        if not self.facts.channels:
            return values
        has = torch.tensor([[number < kind.actions for number in range(self.facts.outputs)] for kind in self.kinds])
        game = batch.inputs[:, -self.facts.channels :].argmax(1)
        return values.masked_fill(~has.to(values.device)[game], NO_ACTION)

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor | None:
        """Return Huber's loss of the values of the actions that were taken."""
        if batch.labels is None:
            return None
        actions, values = batch.labels[:, 0].long(), batch.labels[:, 1]
        return nn.functional.smooth_l1_loss(outputs.gather(1, actions[:, None])[:, 0], values)

    def rows(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Return the values of the actions: softened, they are a policy."""
        return outputs

    def weight(self, batch: Batch) -> float:
        """Count examples."""
        return batch.size

    def meter(self) -> Accumulated:
        """Return one without figures: quality is measured in games."""
        return Accumulated({})

    # ---------------------------------------------------------------- games

    def tables(self, game: int, first_seed: int, count: int) -> Games:
        """Begin some games of one kind.

        :param game: its number in ``games``.
        :param first_seed: of the first; the others have those that follow.
        """
        return Games(self.games[game], range(first_seed, first_seed + count))

    def shown(self, game: int, seen: Tensor) -> Tensor:
        """Return what a game shows as a net's inputs, ``(games, size)``.

        :param seen: ``(games, numbers of this game)``.
        """
        inputs = seen.new_zeros(len(seen), self.facts.size)
        inputs[:, : seen.shape[1]] = seen
        if self.facts.channels:
            inputs[:, game - self.facts.channels] = 1
        return inputs

    def choose(
        self, model: nn.Module, game: int, seen: Tensor, epsilon: float = 0.0, draw: torch.Generator | None = None
    ) -> Tensor:
        """Return the actions that a net finds best, ``(games,)``, on the CPU.

        :param seen: as games show it, on the CPU.
        :param epsilon: share of the actions that are drawn at random instead.
        """
        device = next(model.parameters()).device
        with torch.no_grad():
            best = self.outputs(model, Batch(self.shown(game, seen).to(device)))[:, : self.kinds[game].actions]
        actions = best.argmax(1).cpu()
        if epsilon:
            others = torch.randint(self.kinds[game].actions, (len(seen),), generator=draw)
            actions = torch.where(torch.rand(len(seen), generator=draw) < epsilon, others, actions)
        return actions

    def evaluate(
        self,
        model: nn.Module,
        split: Split,
        *,
        batch_size: int = 128,
        subset: Subset | None = None,
        device: torch.device | str = "cpu",
        limit: int | None = None,
    ) -> dict[str, float]:
        """Play 20 games of each kind by the best actions; each split begins others.

        :param limit: play at most so many.
        """
        count = min(EPISODES, limit or EPISODES)
        found = [self._mean_return(model, game, FIRST_SEEDS[split], count) for game in range(len(self.games))]
        if len(found) == 1:
            return {"return": found[0]}
        return {"return": sum(found) / len(found), "return_cartpole": found[0], "return_acrobot": found[1]}

    def _mean_return(self, model: nn.Module, game: int, first_seed: int, count: int) -> float:
        tables = self.tables(game, first_seed, count)
        total, running = torch.zeros(count), torch.ones(count, dtype=torch.bool)
        while running.any():
            moved = tables.move(self.choose(model, game, tables.seen))
            total += moved.earned * running
            running &= ~moved.over
        return float(total.mean())

    def describe(self) -> dict[str, Any]:
        """Return key and settings."""
        return {"key": self.key, "moves": self.moves}


class CartPole(Control):
    """Balance a pole on a cart: 1 for each move that it stands, at most 500; see :class:`Control`."""

    key = "cartpole"
    games = (CARTPOLE,)
    metrics = Control.metrics[:1]


class Acrobot(Control):
    """Swing up a double pendulum: -1 for each move until its end is up, at least -500; see :class:`Control`."""

    key = "acrobot"
    games = (ACROBOT,)
    metrics = Control.metrics[:1]
