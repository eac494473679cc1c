"""A small recurrent classifier of sequences."""

from __future__ import annotations

from torch import Tensor, nn

from condensery.tasks import TaskFacts
from condensery_plugins.models.facts import builder, scaled


class Recurrent(nn.Module):
    """An LSTM over the frames; what it says of all of them, on average, is classified.

    :param inputs: numbers of a frame.
    :param hidden: units of each layer.
    """

    def __init__(self, inputs: int, hidden: int, layers: int, outputs: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(inputs, hidden, layers, batch_first=True)
        self.head = nn.Linear(hidden, outputs)
        self.roles = {"stages": ["lstm"], "logits": ["head"]}

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``(batch, classes)`` of sequences ``(batch, frames, inputs)``."""
        seen: Tensor = self.lstm(x)[0]
        return self.head(seen.mean(1))  # type: ignore[no-any-return]


@builder("sequence")
def build(facts: TaskFacts, name: str, *, hidden: int = 128, layers: int = 1, width: float = 1.0) -> nn.Module:
    """Build an LSTM classifier.

    :param hidden: units of each layer, before ``width``.
    """
    return Recurrent(facts.size, scaled(width, hidden), layers, facts.outputs)
