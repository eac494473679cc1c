"""A small net for key points: convolutions that halve an image twice, and one that doubles it again.

In the form of SimpleBaseline, the baseline of integral knowledge distillation [47].
"""

from __future__ import annotations

from torch import Tensor, nn

from condensery.tasks import TaskFacts
from condensery_plugins.models.facts import builder, scaled


class HeatMaps(nn.Module):
    """Two stages of convolutions with batch normalization and ReLU, a transposed one, and a heat map for each point.

    :param first: channels of the first stage; the second and the transposed convolution have twice as many.
    :param depth: convolutions of a stage; the first one has a stride of 2.
    """

    def __init__(self, channels: int, first: int, depth: int, points: int) -> None:
        super().__init__()
        second = 2 * first
        self.layer1 = _stage(channels, first, depth)
        self.layer2 = _stage(first, second, depth)
        raised = nn.ConvTranspose2d(second, second, 4, stride=2, padding=1, bias=False)
        self.raised = nn.Sequential(raised, nn.BatchNorm2d(second), nn.ReLU())
        self.final = nn.Conv2d(second, points, 1)
        self.roles = {"stages": ["layer1", "layer2", "raised"], "logits": ["final"]}

    def forward(self, x: Tensor) -> Tensor:
        """Return heat maps, ``(batch, points, height / 2, width / 2)``.

        :param x: images, ``(batch, channels, height, width)``.
        """
        return self.final(self.raised(self.layer2(self.layer1(x))))  # type: ignore[no-any-return]


def _stage(before: int, after: int, depth: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for number in range(depth):
        convolution = nn.Conv2d(before if number == 0 else after, after, 3, 2 if number == 0 else 1, 1, bias=False)
        layers += [convolution, nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers)


@builder("image", least=8)
def build(facts: TaskFacts, name: str, *, depth: int = 2, width: float = 1.0) -> nn.Module:
    """Build a net whose stages have 16 and 32 channels, before ``width``.

    :param depth: convolutions of each stage.
    """
    return HeatMaps(facts.channels, scaled(width, 16), depth, facts.outputs)
