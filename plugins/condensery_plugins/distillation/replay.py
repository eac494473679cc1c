"""What was met while playing, of which some is drawn to learn from."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class Replay:
    """The last moves of one game, as tensors by name with the moves in dimension 0.

    :param capacity: how many are kept; what comes later takes the oldest one's place.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity, self.count = capacity, 0
        self.parts: dict[str, Tensor] = {}

    def __len__(self) -> int:
        return min(self.count, self.capacity)

    def add(self, **moves: Tensor) -> None:
        """Remember some moves, each tensor ``(moves, ...)``; no more than there is room for."""
        for name, values in moves.items():
            if name not in self.parts:
                self.parts[name] = values.new_zeros(self.capacity, *values.shape[1:])
            self.parts[name][(self.count + torch.arange(len(values))) % self.capacity] = values
        self.count += len(next(iter(moves.values())))

    def draw(self, number: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Return some moves, each drawn from all that are remembered."""
        chosen = torch.randint(len(self), (number,), generator=generator)
        return {name: values[chosen] for name, values in self.parts.items()}

    def state(self) -> dict[str, Tensor | int]:
        """Return what a checkpoint must hold."""
        return {"count": self.count, **{name: values[: len(self)] for name, values in self.parts.items()}}

    def load(self, state: Mapping[str, Tensor | int]) -> None:
        """Go on from a state."""
        self.count = int(state["count"])
        for name, kept in state.items():
            if isinstance(kept, Tensor):
                self.parts[name] = kept.new_zeros(self.capacity, *kept.shape[1:])
                self.parts[name][: len(kept)] = kept
