"""Plain convolutional nets of a few layers, as students, assistants and teachers of one family.

Mirzadeh, Farajtabar, Li, Levine, Matsukawa, Ghasemzadeh: "Improved Knowledge Distillation via Teacher Assistant", AAAI
2020; the widths are those of the authors' code.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from condensery.tasks import TaskFacts
from condensery_plugins.models.facts import builder, need, scaled

PLANS: dict[str, tuple[Sequence[Sequence[int]], int]] = {
    "plane2": (((16,), (16,)), 0),
    "plane4": (((16, 16), (32, 32)), 0),
    "plane6": (((16, 16), (32, 32), (64, 64)), 0),
    "plane8": (((16, 16), (32, 32), (64, 64), (128, 128)), 64),
    "plane10": (((32, 32), (64, 64), (128, 128), (256, 256, 256, 256)), 128),
}
"""For ten classes: by block the channels of its convolutions, and units of the hidden layer; 0: there is none."""
WIDE_PLANS: dict[str, tuple[Sequence[Sequence[int]], int]] = {
    "plane2": (((32,), (32,)), 0),
    "plane4": (((32, 32), (64, 64)), 0),
    "plane6": (((32, 32), (64, 64), (128, 128)), 0),
    "plane8": (((32, 32), (64, 64), (128, 128), (256, 256)), 64),
    "plane10": (((32, 32), (64, 64), (128, 128), (256, 256, 256, 256)), 512),
}
"""For more classes."""


class Plane(nn.Module):
    """3x3 convolutions with batch normalization and ReLU, pooled in blocks; then all positions are read at once.

    :param plan: by block, the channels of its convolutions.
    :param hidden: units of a linear layer with ReLU before the last one; 0: there is none.
    :param pools: how many of the blocks end in a pooling, the first ones.
    """

    def __init__(self, plan: Sequence[Sequence[int]], hidden: int, pools: int, facts: TaskFacts) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        ends = []
        before = facts.channels
        for number, block in enumerate(plan):
            for after in block:
                layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
                before = after
            ends.append(f"features.{len(layers) - 1}")
            if number < pools:
                layers.append(nn.MaxPool2d(2))

        self.features = nn.Sequential(*layers)
        numbers = before * (facts.height >> pools) * (facts.width >> pools)
        self.hidden: nn.Module = nn.Sequential(nn.Linear(numbers, hidden), nn.ReLU()) if hidden else nn.Identity()
        self.classifier = nn.Linear(hidden or numbers, facts.outputs)
        self.roles = {"stages": ends, "logits": ["classifier"]}

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``(batch, classes)`` of images ``(batch, channels, height, width)``."""
        return self.classifier(self.hidden(self.features(x).flatten(1)))  # type: ignore[no-any-return]


@builder("image")
def build(facts: TaskFacts, name: str, *, width: float = 1.0) -> nn.Module:
    """Build ``plane2`` to ``plane10``, named after their number of convolutions."""
    wide = facts.outputs > 10
    blocks, hidden = (WIDE_PLANS if wide else PLANS)[name]
    # The authors' net of six convolutions for CIFAR-100 has no third pooling.
    pools = len(blocks) - (wide and name == "plane6")
    need(facts, name, ("image",), least=2**pools)
    plan = [[scaled(width, channels) for channels in block] for block in blocks]
    return Plane(plan, scaled(width, hidden) if hidden else 0, pools, facts)
