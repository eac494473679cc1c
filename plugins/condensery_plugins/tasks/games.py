"""Games of Gymnasium that are played side by side, so that a net answers all of them at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from condensery import UsageError


class Moved(NamedTuple):
    """What one move of each game came to.

    :param earned: the rewards, ``(games,)``.
    :param seen: where each game then stood, ``(games, size)``; also if that was its end.
    :param lost: which games ended by their own rules, ``(games,)``: nothing can be earned after that.
    :param over: which ended at all, by their rules or by the longest time that is given.
    """

    earned: Tensor
    seen: Tensor
    lost: Tensor
    over: Tensor


class Games:
    """Some games of one kind; one that is over begins anew by itself.

    ``seen`` is what each shows now, ``(games, size)``.

    :param name: as Gymnasium registers it, ``CartPole-v1``.
    :param seeds: one for each game; the same seeds and moves give the same games.
    :raises UsageError: if Gymnasium isn't installed.
    """

    def __init__(self, name: str, seeds: Sequence[int]) -> None:
        try:
            import gymnasium
        except ImportError:
            message = f"the game {name!r} needs the package 'gymnasium': pip install 'condensery[rl]'"
            raise UsageError(message) from None

        self._games: list[Any] = [gymnasium.make(name, disable_env_checker=True) for _ in seeds]
        started = [game.reset(seed=seed)[0] for game, seed in zip(self._games, seeds, strict=True)]
        self.seen = _tensor(started)

    def move(self, actions: Tensor) -> Moved:
        """Make one move in each game.

        :param actions: numbers of the actions, ``(games,)``.
        """
        seen, earned, lost, over, shown = [], [], [], [], []
        for game, action in zip(self._games, actions.tolist(), strict=True):
            now, reward, terminated, truncated, _ = game.step(action)
            seen.append(now)
            earned.append(float(reward))
            lost.append(terminated)
            over.append(terminated or truncated)
            shown.append(game.reset()[0] if over[-1] else now)

        self.seen = _tensor(shown)
        return Moved(torch.tensor(earned), _tensor(seen), torch.tensor(lost), torch.tensor(over))


def _tensor(rows: Sequence[Any]) -> Tensor:
    return torch.from_numpy(np.stack(rows).astype(np.float32))
