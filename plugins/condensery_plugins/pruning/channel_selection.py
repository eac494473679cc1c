"""Channel selection: what lets a layer read only some of the channels that arrive."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from condensery import Transform
from condensery.nets import REPARAMETRIZE


class ChannelSelection(Transform):
    """Picks channels by a stored index, in front of a layer: a site such as ``conv1:input``.

    Liu et al.: "Learning Efficient Convolutional Networks through Network Slimming", ICCV 2017 [16], section 3: where a
    batch normalization reads channels that others need as well (pre-activation ResNets, DenseNets), it keeps its width,
    and the convolution behind it is narrowed.

    :param channels: how many are picked.
    :param axis: of the channels, negative: -3 for images.
    """

    key = "channel-selection"
    rank = REPARAMETRIZE
    reshapes = True
    index: Tensor

    def __init__(self, channels: int, axis: int = -3) -> None:
        super().__init__()
        self.axis = axis
        self.register_buffer("index", torch.arange(channels))

    def forward(self, value: Tensor) -> Tensor:
        """Return the picked channels, in the order of the index.

        :param value: ``(batch, channels, ...)``, the channels at ``axis``; the result has fewer of them.
        """
        return value.index_select(self.axis, self.index)

    def resize(self, take: Callable[[Tensor], Tensor]) -> None:
        """Pick fewer, when the layer loses more of its inputs."""
        self.index = take(self.index.view(-1, *[1] * (-self.axis - 1))).flatten()

    def config(self) -> dict[str, Any]:
        """Return the number of channels and their axis."""
        return {"channels": len(self.index), "axis": self.axis}


def selection(kept: Tensor, axis: int) -> ChannelSelection:
    """Return a selection of some channels.

    :param kept: their indices, int64 of shape ``(channels,)``.
    :param axis: of the channels, negative.
    """
    made = ChannelSelection(len(kept), axis)
    made.index.copy_(kept)
    return made
