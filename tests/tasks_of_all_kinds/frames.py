"""An LSTM on sequences of different lengths, packed: one class for each frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tests.tasks_of_all_kinds.made import Made
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from condensery import Batch
from condensery.tasks import TaskFacts

FEATURES, CLASSES, LONGEST = 4, 3, 7


class Frames(Made):
    """Which of three running sums is the largest so far? Inputs, labels and outputs are packed."""

    key = "made-frames"
    facts = TaskFacts("sequence", outputs=CLASSES, channels=FEATURES, length=LONGEST)

    def make(self, examples: int, generator: torch.Generator) -> Sequence[Any]:
        lengths = torch.randint(1, LONGEST + 1, (examples,), generator=generator).tolist()
        sequences = [torch.randn(length, FEATURES, generator=generator) for length in lengths]
        return [(x, x[:, :CLASSES].cumsum(0).argmax(1)) for x in sequences]

    def batch(self, examples: Sequence[tuple[Tensor, Tensor]]) -> Batch:
        sequences, labels = zip(*examples, strict=True)
        return Batch(pack_sequence(list(sequences), False), pack_sequence(list(labels), False))

    def example(self, batch_size: int = 2) -> PackedSequence:
        generator = torch.Generator().manual_seed(0)
        return pack_sequence([torch.randn(LONGEST, FEATURES, generator=generator) for _ in range(batch_size)])


class Tagger(nn.Module):
    """An LSTM and a linear layer on what it says at each frame."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(features, 12)
        self.head = nn.Linear(12, classes)

    def forward(self, packed: PackedSequence) -> PackedSequence:
        """Return class scores, packed like what was given; of each frame ``(classes,)``."""
        hidden: PackedSequence = self.lstm(packed)[0]
        return hidden._replace(data=self.head(hidden.data))


def build(facts: TaskFacts, name: str) -> nn.Module:
    """Build a tagger."""
    return Tagger(facts.channels, facts.outputs)
