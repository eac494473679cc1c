"""Fully connected nets: LeNet-300-100, and Hinton's MNIST teacher and student."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import Tensor, nn

from condensery.errors import UsageError
from condensery.tasks import TaskFacts
from condensery_plugins.models.facts import builder, scaled


class MLP(nn.Module):
    """Linear layers with ReLU and dropout between.

    :param dropout: share of units dropped behind each hidden layer.
    :param input_dropout: share of inputs dropped.
    """

    def __init__(self, sizes: Sequence[int], dropout: float = 0.0, input_dropout: float = 0.0) -> None:
        super().__init__()
        for number, (before, after) in enumerate(itertools.pairwise(sizes), 1):
            self.add_module(f"fc{number}", nn.Linear(before, after))
        self.depth = len(sizes) - 1
        self.dropout, self.input_dropout = nn.Dropout(dropout), nn.Dropout(input_dropout)
        hidden = [f"fc{i}" for i in range(1, self.depth)]
        self.roles = {"stages": hidden, "logits": [f"fc{self.depth}"]}

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``(batch, classes)`` of inputs of any shape ``(batch, ...)``."""
        x = self.input_dropout(x.flatten(1))
        for number in range(1, self.depth):
            x = self.dropout(getattr(self, f"fc{number}")(x).relu())
        return getattr(self, f"fc{self.depth}")(x)  # type: ignore[no-any-return]


@builder("image")
def build(
    facts: TaskFacts,
    name: str,
    *,
    hidden: Sequence[int] = (800, 800),
    dropout: float = 0.0,
    input_dropout: float = 0.0,
    width: float = 1.0,
) -> nn.Module:
    """Build a net with the given hidden widths.

    Hinton, Vinyals, Dean ("Distilling the Knowledge in a Neural Network", 2015, section 3) teach ``[800, 800]``, the
    default, by ``[1200, 1200]`` with ``dropout: 0.5`` and ``input_dropout: 0.2``.

    :param hidden: units of each hidden layer, before ``width``; none gives a linear classifier.
    """
    if not all(isinstance(units, int) and units > 0 for units in hidden):
        raise UsageError(f"model {name!r}: hidden is a list of whole numbers above 0, got {list(hidden)}")
    sizes = [facts.channels * facts.size**2, *[scaled(width, h) for h in hidden], facts.outputs]
    return MLP(sizes, dropout, input_dropout)


@builder("image")
def build_lenet_300_100(facts: TaskFacts, name: str, *, width: float = 1.0) -> nn.Module:
    """Build LeNet-300-100: 266,610 parameters on 28x28 images and ten classes."""
    return build(facts, name, hidden=(300, 100), width=width)
