"""The small VGG on which weights of few bits are measured: six convolutions, then linear layers.

Courbariaux, Bengio, David: "BinaryConnect: Training Deep Neural Networks with binary weights during propagations",
NeurIPS 2015, with two hidden linear layers; BNN and XNOR-Net take it over. VGG-7 of Ternary Weight Networks has one,
VGG-small of LQ-Nets none.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from condensery.tasks import TaskFacts
from condensery_plugins.models.facts import builder, check_widths, scaled
from condensery_plugins.models.mlp import ACTIVATIONS, check_activations
from condensery_plugins.models.vgg import start_convolutions

CHANNELS = (128, 256, 512)
"""Of each pair of convolutions."""


class VGGSmall(nn.Module):
    """Pairs of 3x3 convolutions, the second one of each pooled; then linear layers on all positions that are left.

    Every layer but the last is normalized and has an activation; pooling stands between convolution and normalization,
    as in BinaryConnect's code, so that no maximum is taken of signs.

    :param channels: of the convolutions of each pair.
    :param hidden: units of each linear layer before the last.
    :param activation: by its name in :data:`ACTIVATIONS`.
    :param output_norm: normalize the last layer too.
    """

    def __init__(
        self,
        facts: TaskFacts,
        channels: Sequence[int],
        hidden: Sequence[int],
        *,
        activation: str = "relu",
        output_norm: bool = False,
    ) -> None:
        super().__init__()
        act = ACTIVATIONS[activation]
        layers: list[nn.Module] = []
        ends = []
        before = facts.channels
        for after in channels:
            layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), act()]
            layers += [nn.Conv2d(after, after, 3, padding=1, bias=False), nn.MaxPool2d(2), nn.BatchNorm2d(after), act()]
            ends.append(f"features.{len(layers) - 1}")
            before = after
        self.features = nn.Sequential(*layers)

        halved = 2 ** len(channels)
        before *= (facts.height // halved) * (facts.width // halved)
        between: list[nn.Module] = []
        for units in hidden:
            between += [nn.Linear(before, units, bias=False), nn.BatchNorm1d(units), act()]
            before = units
        self.hidden = nn.Sequential(*between)
        self.classifier = nn.Linear(before, facts.outputs)
        self.norm = nn.BatchNorm1d(facts.outputs) if output_norm else nn.Identity()
        self.roles = {"stages": ends, "logits": ["classifier"]}
        start_convolutions(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``(batch, classes)`` of images ``(batch, channels, height, width)``."""
        return self.norm(self.classifier(self.hidden(self.features(x).flatten(1))))  # type: ignore[no-any-return]


@builder("image", least=8)
def build(
    facts: TaskFacts,
    name: str,
    *,
    width: float = 1.0,
    hidden: Sequence[int] = (),
    activation: str = "relu",
    output_norm: bool = False,
) -> nn.Module:
    """Build the net for images of at least 8x8.

    :param hidden: units of each linear layer before the last, before ``width``: none for LQ-Nets' [34] VGG-small,
        ``[1024]`` for VGG-7 of Ternary Weight Networks [28], ``[1024, 1024]`` for BinaryConnect's net [25] and BNN's.
    :param activation: of all layers but the last: relu, sigmoid, tanh, or hardtanh, whose sign is that of its input.
    :param output_norm: normalize the last layer too, as BinaryConnect and BNN do.
    """
    check_activations(name, activation)
    check_widths(name, "hidden", hidden)
    channels = [scaled(width, count) for count in CHANNELS]
    return VGGSmall(
        facts, channels, [scaled(width, units) for units in hidden], activation=activation, output_norm=output_norm
    )
