"""VGG with batch normalization in its CIFAR form: a global average, then one linear layer, or two.

Simonyan, Zisserman: "Very Deep Convolutional Networks for Large-Scale Image Recognition", ICLR 2015.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from condensery import UsageError
from condensery.tasks import TaskFacts
from condensery_plugins.models.facts import builder, scaled

STAGES = {"vgg16-bn": (2, 2, 3, 3, 3), "vgg19-bn": (2, 2, 4, 4, 4)}
CHANNELS = (64, 128, 256, 512, 512)


class VGG(nn.Module):
    """3x3 convolutions, each with batch normalization and ReLU; max pooling between the stages.

    Images under 16x16 can't be halved four times; for them the *first* poolings are left out, so that the convolutions
    behind them still have something to see.

    :param plan: by stage, the channels of its convolutions.
    :param channels: of the images.
    :param size: shorter side of the images, in pixels.
    :param hidden: width of a linear layer with batch normalization and ReLU before the last one; 0: there is none.
    """

    def __init__(self, plan: Sequence[Sequence[int]], channels: int, size: int, classes: int, hidden: int = 0) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        ends = []
        before = channels
        for number, stage in enumerate(plan):
            for after in stage:
                layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
                before = after
            ends.append(f"features.{len(layers) - 1}")
            if number < len(plan) - 1:
                fits = size >> (len(plan) - 1 - number) > 0
                layers.append(nn.MaxPool2d(2) if fits else nn.Identity())
                size = size // 2 if fits else size

        self.features = nn.Sequential(*layers)
        self.hidden: nn.Module = nn.Identity()
        if hidden:
            self.hidden = nn.Sequential(nn.Linear(before, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU())
        self.classifier = nn.Linear(hidden or before, classes)
        self.roles = {"stages": ends, "logits": ["classifier"]}
        start_convolutions(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``(batch, classes)`` of images ``(batch, channels, height, width)``."""
        return self.classifier(self.hidden(self.features(x).mean((2, 3))))  # type: ignore[no-any-return]


def start_convolutions(net: nn.Module) -> None:
    """Draw the weights of convolutions by He's rule, over their outputs."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")


@builder("image", least=8)
def build(
    facts: TaskFacts, name: str, *, width: float = 1.0, channels: Sequence[int] | None = None, hidden: int = 0
) -> nn.Module:
    """Build ``vgg16-bn`` or ``vgg19-bn``.

    :param channels: of each convolution in turn, instead of the usual ones.
    :param hidden: width of a linear layer before the last one; 512 gives the VGG-16 of CIFAR-10 as [14] has it.
    """
    counts = STAGES[name]
    wanted = [scaled(width, c) for c, n in zip(CHANNELS, counts, strict=True) for _ in range(n)]
    if channels is not None:
        if len(channels) != len(wanted):
            raise UsageError(
                f"model {name!r}: channels has {len(channels)} numbers, the net {len(wanted)} convolutions"
            )
        wanted = list(channels)

    rest = iter(wanted)
    plan = [[next(rest) for _ in range(n)] for n in counts]
    return VGG(
        plan, facts.channels, min(facts.height, facts.width), facts.outputs, scaled(width, hidden) if hidden else 0
    )
