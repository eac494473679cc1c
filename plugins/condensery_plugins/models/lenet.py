"""LeNet-5 in the Caffe form that Deep Compression uses: 431,080 parameters on 28x28 images.

LeCun, Bottou, Bengio, Haffner: "Gradient-Based Learning Applied to Document Recognition", Proc. IEEE 86(11), 1998.
"""

from __future__ import annotations

from torch import Tensor, nn

from condensery.tasks import TaskFacts
from condensery_plugins.models.facts import builder, scaled


class LeNet5(nn.Module):
    """Two 5x5 convolutions of 20 and 50 channels with max pooling, then 500 units with ReLU.

    :param rectified: a ReLU behind each convolution too, as in PyTorch's own example; Caffe's net has none.
    """

    def __init__(self, channels: int, height: int, width: int, classes: int, factor: float, rectified: bool) -> None:
        super().__init__()
        first, second, hidden = (scaled(factor, c) for c in (20, 50, 500))
        rows, columns = (((side - 4) // 2 - 4) // 2 for side in (height, width))  # behind convolutions and poolings
        self.conv1 = nn.Conv2d(channels, first, 5)
        self.conv2 = nn.Conv2d(first, second, 5)
        self.relu1, self.relu2 = (nn.ReLU() if rectified else nn.Identity() for _ in range(2))
        self.ip1 = nn.Linear(second * rows * columns, hidden)
        self.relu = nn.ReLU()
        self.ip2 = nn.Linear(hidden, classes)
        self.roles = {"stages": ["conv1", "conv2", "ip1"], "logits": ["ip2"]}

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``(batch, classes)`` of images ``(batch, channels, height, width)``."""
        x = nn.functional.max_pool2d(self.relu1(self.conv1(x)), 2)
        x = nn.functional.max_pool2d(self.relu2(self.conv2(x)), 2)
        return self.ip2(self.relu(self.ip1(x.flatten(1))))  # type: ignore[no-any-return]


@builder("image", least=16)
def build(facts: TaskFacts, name: str, *, width: float = 1.0, rectified: bool = False) -> nn.Module:
    """Build LeNet-5 for images of at least 16x16, with ``rectified`` with a ReLU behind each convolution."""
    return LeNet5(facts.channels, facts.height, facts.width, facts.outputs, width, rectified)
