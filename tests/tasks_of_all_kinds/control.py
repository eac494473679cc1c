"""A DQN: a net that plays, fills a replay buffer and learns from it; quality is what it earns."""

from __future__ import annotations

import dataclasses
import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from tests.tasks_of_all_kinds.made import Made
from torch import Tensor, nn

from condensery import Batch, Method, Stage, hookimpl
from condensery.tasks import Metric, TaskFacts

PLACES, ACTIONS, LONGEST, DISCOUNT = 5, 2, 12, 0.9

Move = tuple[int, int, float, int, bool]
"""Where it was, what it did, what it earned, where it then was, whether that was the end."""


def move(place: int, action: int) -> Move:
    """Go left or right in a corridor; its right end is worth 1 and ends the game."""
    there = min(max(place + (1 if action else -1), 0), PLACES - 1)
    end = there == PLACES - 1
    return place, action, float(end), there, end


def seen(places: Sequence[int]) -> Tensor:
    """Return what the net sees of some places, ``(batch, places)``."""
    return nn.functional.one_hot(torch.tensor(places), PLACES).float()


class Corridor(Made):
    """Find the way to the right. Labels are a tuple: actions, rewards, what is seen next, ends."""

    key = "made-corridor"
    metrics = (Metric("earned", "reward", True),)
    facts = TaskFacts("vector", outputs=ACTIONS, size=PLACES)

    def __init__(self) -> None:
        super().__init__()
        self.buffer: deque[Move] = deque(maxlen=200)

    def make(self, examples: int, generator: torch.Generator) -> Sequence[Move]:
        draws = torch.randint(0, 1000, (examples, 2), generator=generator).tolist()
        return [move(place % (PLACES - 1), action % ACTIONS) for place, action in draws]

    def batch(self, examples: Sequence[Move]) -> Batch:
        places, actions, rewards, there, ends = zip(*examples, strict=True)
        labels = torch.tensor(actions), torch.tensor(rewards), seen(there), torch.tensor(ends)
        return Batch(seen(places), labels)

    def example(self, batch_size: int = 2) -> Tensor:
        return seen([number % PLACES for number in range(batch_size)])

    def outputs(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return ``logits``, the value of each action ``(batch, actions)``, and what the next place is worth."""
        values = {"logits": model(batch.inputs)}
        if batch.labels is not None:
            with torch.no_grad():
                values["next"] = model(batch.labels[2]).amax(1)
        return values

    def loss(self, outputs: dict[str, Tensor], batch: Batch) -> Tensor | None:
        """Return the squared error of Bellman's equation."""
        if batch.labels is None:
            return None
        actions, rewards, _, ends = batch.labels
        wanted = rewards + DISCOUNT * outputs["next"] * ~ends
        return nn.functional.mse_loss(outputs["logits"].gather(1, actions[:, None])[:, 0], wanted)

    def rows(self, outputs: dict[str, Tensor], batch: Batch) -> Tensor:
        """Return the values of the actions, as policy distillation softens them."""
        return outputs["logits"]

    def evaluate(self, model: nn.Module, split: Any, **how: Any) -> dict[str, float]:
        """Play from the left end, greedily; no batches are needed."""
        return {"earned": sum(reward * DISCOUNT**turn for turn, (_, _, reward, _, _) in enumerate(episode(model)))}


def episode(model: nn.Module, random: torch.Generator | None = None) -> Iterator[Move]:
    """Yield the moves of one game.

    :param random: where given, the first place and half of the moves are drawn from it.
    """
    place, end = 0 if random is None else int(torch.randint(PLACES - 1, (), generator=random)), False
    for _ in range(LONGEST):
        if end:
            return
        action = int(model(seen([place])).argmax())
        if random is not None and int(torch.randint(2, (), generator=random)):
            action = int(torch.randint(ACTIONS, (), generator=random))
        made = move(place, action)
        yield made
        place, end = made[3], made[4]


@dataclasses.dataclass(eq=False, kw_only=True)
class Explore(Method):
    """Let the student play between its steps, and learn from what the replay buffer holds."""

    key = "explore"

    @hookimpl
    def batches(self, stage: Stage) -> Iterator[Batch]:
        """Yield as many batches as the task has; before each of them one game is played."""
        task, size = stage.task, stage.train.batch_size
        assert isinstance(task, Corridor)
        random = torch.Generator().manual_seed(stage.seed + stage.epoch)
        for _ in range(stage.steps_per_epoch):
            with torch.no_grad():
                task.buffer.extend(episode(stage.student.module, random))
            drawn = torch.randint(len(task.buffer), (size,), generator=random).tolist()
            yield task.batch([task.buffer[i] for i in drawn])


def build(facts: TaskFacts, name: str) -> nn.Module:
    """Build a perceptron."""
    return nn.Sequential(nn.Linear(facts.size, 16), nn.ReLU(), nn.Linear(16, facts.outputs))


def best() -> float:
    """Return what the straight way earns."""
    way = itertools.accumulate(range(PLACES - 1), lambda place, _: move(place, 1)[3], initial=0)
    return DISCOUNT ** (len(list(way)) - 2)
