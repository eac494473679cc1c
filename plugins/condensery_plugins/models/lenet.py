"""LeNet-5 in the Caffe form that Deep Compression uses: 431,080 parameters on 28x28 images.

LeCun, Bottou, Bengio, Haffner: "Gradient-Based Learning Applied to Document Recognition", Proc. IEEE 86(11), 1998.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from condensery.tasks import TaskFacts
from condensery_plugins.models.facts import builder, check_widths, scaled

WIDTHS = (20, 50, 500)


class LeNet5(nn.Module):
    """Two 5x5 convolutions with max pooling, then one hidden linear layer with ReLU.

    :param widths: channels of both convolutions, units of the hidden layer.
    :param rectified: a ReLU behind each convolution too, as in PyTorch's own example; Caffe's net has none.
    :param batch_norm: normalize both convolutions and the hidden layer, before what stands behind them.
    """

    def __init__(
        self, facts: TaskFacts, widths: Sequence[int], *, rectified: bool = False, batch_norm: bool = False
    ) -> None:
        super().__init__()
        first, second, hidden = widths
        rows, columns = (((side - 4) // 2 - 4) // 2 for side in (facts.height, facts.width))  # behind both poolings
        self.conv1 = nn.Conv2d(facts.channels, first, 5)
        self.conv2 = nn.Conv2d(first, second, 5)
        self.relu1, self.relu2 = (nn.ReLU() if rectified else nn.Identity() for _ in range(2))
        self.ip1 = nn.Linear(second * rows * columns, hidden)
        self.relu = nn.ReLU()
        self.ip2 = nn.Linear(hidden, facts.outputs)

        self.norm1, self.norm2 = (nn.BatchNorm2d(c) if batch_norm else nn.Identity() for c in (first, second))
        self.norm3 = nn.BatchNorm1d(hidden) if batch_norm else nn.Identity()
        self.roles = {"stages": ["conv1", "conv2", "ip1"], "logits": ["ip2"]}

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``(batch, classes)`` of images ``(batch, channels, height, width)``."""
        x = nn.functional.max_pool2d(self.relu1(self.norm1(self.conv1(x))), 2)
        x = nn.functional.max_pool2d(self.relu2(self.norm2(self.conv2(x))), 2)
        return self.ip2(self.relu(self.norm3(self.ip1(x.flatten(1)))))  # type: ignore[no-any-return]


@builder("image", least=16)
def build(
    facts: TaskFacts,
    name: str,
    *,
    width: float = 1.0,
    widths: Sequence[int] = WIDTHS,
    rectified: bool = False,
    batch_norm: bool = False,
) -> nn.Module:
    """Build LeNet-5 for images of at least 16x16.

    :param widths: channels of both convolutions and units of the hidden layer, before ``width``. Ternary Weight
        Networks [28] have ``[32, 64, 512]``, with ``rectified`` and ``batch_norm``.
    :param rectified: a ReLU behind each convolution too.
    :param batch_norm: normalize all but the last layer.
    """
    check_widths(name, "widths", widths, "three", len(WIDTHS))
    counts = [scaled(width, count) for count in widths]
    return LeNet5(facts, counts, rectified=rectified, batch_norm=batch_norm)
