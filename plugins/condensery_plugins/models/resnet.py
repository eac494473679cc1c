"""ResNets for CIFAR, whose shortcuts pad or project.

He, Zhang, Ren, Sun: "Deep Residual Learning for Image Recognition", CVPR 2016, section 4.2. Its nets for CIFAR pad,
option A; benchmarks of distillation project by a 1x1 convolution with batch normalization, option B.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

from torch import Tensor, nn

from condensery import UsageError
from condensery.tasks import TaskFacts
from condensery_plugins.models.facts import builder, scaled

Shortcut = Literal["pad", "conv"]
"""How a block's input meets an output of another shape: every ``stride``-th pixel and channels of zeros, or a 1x1
convolution of that stride with batch normalization."""


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut, which is the input itself where the shape stays."""

    def __init__(self, before: int, after: int, stride: int, shortcut: Shortcut = "pad") -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.relu2 = nn.ReLU()
        self.stride, self.grow = stride, after - before
        self.projection: nn.Module | None = None
        if shortcut == "conv" and (stride != 1 or self.grow):
            self.projection = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        """Return features ``(batch, after, size / stride, size / stride)`` of ``(batch, before, size, size)``."""
        out = self.relu1(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))

        if self.projection is not None:
            x = self.projection(x)
        elif self.stride != 1 or self.grow:
            x = x[:, :, :: self.stride, :: self.stride]
            x = nn.functional.pad(x, (0, 0, 0, 0, self.grow // 2, self.grow - self.grow // 2))
        return self.relu2(out + x)  # type: ignore[no-any-return]


class ResNet(nn.Module):
    """Three stages of 16, 32 and 64 channels (times ``width``); with ``n`` blocks in each the depth is 6n + 2.

    :param stem: channels of the first convolution; 0: as many as the first stage has.
    """

    def __init__(
        self,
        blocks: Sequence[int],
        channels: int,
        classes: int,
        width: float,
        shortcut: Shortcut = "pad",
        stem: int = 0,
    ) -> None:
        super().__init__()
        sizes = [scaled(width, c) for c in (16, 32, 64)]
        first = stem or sizes[0]
        self.conv1 = nn.Conv2d(channels, first, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(first)
        self.relu = nn.ReLU()
        self.layer1 = self._stage(blocks[0], first, sizes[0], 1, shortcut)
        self.layer2 = self._stage(blocks[1], sizes[0], sizes[1], 2, shortcut)
        self.layer3 = self._stage(blocks[2], sizes[1], sizes[2], 2, shortcut)
        self.linear = nn.Linear(sizes[2], classes)
        self.roles = {"stages": ["layer1", "layer2", "layer3"], "logits": ["linear"]}

        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    @staticmethod
    def _stage(blocks: int, before: int, after: int, stride: int, shortcut: Shortcut) -> nn.Sequential:
        rest = [Block(after, after, 1) for _ in range(blocks - 1)]
        return nn.Sequential(Block(before, after, stride, shortcut), *rest)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``(batch, classes)`` of images ``(batch, channels, size, size)``."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))  # type: ignore[no-any-return]


@builder("image", least=8)
def build(
    facts: TaskFacts,
    name: str,
    *,
    width: float = 1.0,
    blocks: Sequence[int] = (),
    shortcut: Shortcut = "pad",
    stem: int = 0,
) -> nn.Module:
    """Build ``resnet<6n+2>``.

    :param blocks: of each of the three stages, in place of ``n`` in all.
    :param shortcut: ``pad`` as in the paper, or ``conv``, which has more parameters.
    :param stem: channels of the first convolution, whatever the ``width``; 0: as many as the first stage has.
    :raises UsageError: for other than three numbers of 1 to 100, for another shortcut, and for less than no channels.
    """
    depth = int(name.removeprefix("resnet"))
    chosen = list(blocks) or 3 * [(depth - 2) // 6]
    if len(chosen) != 3 or not all(isinstance(n, int) and 1 <= n <= 100 for n in chosen):
        raise UsageError(f"model {name!r}: blocks are three numbers of 1 to 100, got {chosen}")
    if shortcut not in get_args(Shortcut):
        raise UsageError(f"model {name!r}: a shortcut is {' or '.join(get_args(Shortcut))}, got {shortcut!r}")
    if not isinstance(stem, int) or stem < 0:
        raise UsageError(f"model {name!r}: stem is a number of channels, got {stem!r}")
    return ResNet(chosen, facts.channels, facts.outputs, width, shortcut, stem)
