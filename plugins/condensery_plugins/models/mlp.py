"""Fully connected nets: LeNet-300-100, Hinton's MNIST teacher and student, small sigmoid nets."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import Tensor, nn

from condensery import UnknownKey
from condensery.tasks import TaskFacts
from condensery_plugins.models.facts import builder, check_widths, scaled

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "hardtanh": nn.Hardtanh,
    "relu": nn.ReLU,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
}


class MLP(nn.Module):
    """Linear layers with an activation and dropout between.

    :param sizes: inputs, units of each hidden layer, outputs.
    :param dropout: share of units dropped behind each hidden layer.
    :param input_dropout: share of inputs dropped.
    :param activation: of the hidden units, by its name in :data:`ACTIVATIONS`.
    :param output: activation of the last layer, or ``None``.
    :param batch_norm: normalize each hidden layer before its activation.
    :param output_norm: normalize the last layer too, before its activation.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        dropout: float = 0.0,
        input_dropout: float = 0.0,
        activation: str = "relu",
        output: str | None = None,
        *,
        batch_norm: bool = False,
        output_norm: bool = False,
    ) -> None:
        super().__init__()
        self.depth = len(sizes) - 1
        for number, (before, after) in enumerate(itertools.pairwise(sizes), 1):
            self.add_module(f"fc{number}", nn.Linear(before, after))
            if output_norm if number == self.depth else batch_norm:
                self.add_module(f"norm{number}", nn.BatchNorm1d(after))

        self.batch_norm, self.output_norm = batch_norm, output_norm
        self.activation = ACTIVATIONS[activation]()
        self.output: nn.Module = nn.Identity() if output is None else ACTIVATIONS[output]()
        self.dropout, self.input_dropout = nn.Dropout(dropout), nn.Dropout(input_dropout)
        hidden = [f"fc{i}" for i in range(1, self.depth)]
        self.roles = {"stages": hidden, "logits": [f"fc{self.depth}"]}

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``(batch, classes)`` of inputs of any shape ``(batch, ...)``."""
        x = self.input_dropout(x.flatten(1))
        for number in range(1, self.depth):
            x = getattr(self, f"fc{number}")(x)
            if self.batch_norm:
                x = getattr(self, f"norm{number}")(x)
            x = self.dropout(self.activation(x))

        x = getattr(self, f"fc{self.depth}")(x)
        if self.output_norm:
            x = getattr(self, f"norm{self.depth}")(x)
        return self.output(x)  # type: ignore[no-any-return]


def check_activations(name: str, *activations: str | None) -> None:
    """Refuse an activation of a model that isn't one; ``None`` stands for none.

    :raises UnknownKey: naming the nearest one.
    """
    for activation in activations:
        if activation is not None and activation not in ACTIVATIONS:
            raise UnknownKey("activation", str(activation), ACTIVATIONS, where=f"model {name!r}")


@builder("image", "vector")
def build(
    facts: TaskFacts,
    name: str,
    *,
    hidden: Sequence[int] = (800, 800),
    dropout: float = 0.0,
    input_dropout: float = 0.0,
    activation: str = "relu",
    output: str | None = None,
    batch_norm: bool = False,
    output_norm: bool = False,
    width: float = 1.0,
) -> nn.Module:
    """Build a net with the given hidden widths.

    Hinton, Vinyals, Dean ("Distilling the Knowledge in a Neural Network", 2015, section 3) teach ``[800, 800]``, the
    default, by ``[1200, 1200]`` with ``dropout: 0.5`` and ``input_dropout: 0.2``.

    :param hidden: units of each hidden layer, before ``width``; none gives a linear classifier.
    :param activation: of the hidden units: relu, sigmoid, tanh, or hardtanh, whose sign is that of its input.
    :param output: of the output units; by default none.
    :param batch_norm: normalize each hidden layer before its activation, whose scales Network Slimming [16] prunes by.
    :param output_norm: normalize the output units too, as BinaryConnect [25] and BNN [24] do: sums of signs are of the
        size of the root of their number, far too large for a loss.
    """
    check_activations(name, activation, output)
    check_widths(name, "hidden", hidden)

    inputs = facts.size if facts.kind == "vector" else facts.channels * facts.height * facts.width
    sizes = [inputs, *[scaled(width, h) for h in hidden], facts.outputs]
    return MLP(sizes, dropout, input_dropout, activation, output, batch_norm=batch_norm, output_norm=output_norm)


@builder("image")
def build_lenet_300_100(facts: TaskFacts, name: str, *, width: float = 1.0) -> nn.Module:
    """Build LeNet-300-100: 266,610 parameters on 28x28 images and ten classes."""
    return build(facts, name, hidden=(300, 100), width=width)
