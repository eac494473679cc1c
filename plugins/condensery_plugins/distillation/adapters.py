"""What lets the features of unlike nets meet: maps, tokens and vectors, of other widths, sizes and counts.

Features come as a layer gives them: maps ``(batch, channels, height, width)`` of a CNN, tokens ``(batch, tokens,
width)`` of a ViT or a Transformer, vectors ``(batch, width)``. Here they meet as maps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from condensery.errors import UsageError

PREFIX = 5
"""A ViT puts at most so many tokens before those of its patches: its class, a teacher's class, some registers."""


def as_map(features: Tensor) -> Tensor:
    """Return features as maps, ``(batch, channels, height, width)``; a vector is a map of one position.

    A ViT's tokens go back to the square grid of their patches; those that come before, as for the class, are left out.

    :raises UsageError: for tokens that are no square grid, as those of a text.
    """
    if features.dim() == 4:
        return features
    if features.dim() == 2:
        return features[:, :, None, None]
    if features.dim() != 3:
        raise UsageError(f"features of shape {tuple(features.shape)} are neither maps, tokens nor vectors")

    count = features.shape[1]
    side = math.isqrt(count)
    if count - side**2 > PREFIX:
        raise UsageError(f"{count} tokens are no square grid of patches, so that they can't meet other positions")
    return features[:, count - side**2 :].transpose(1, 2).reshape(len(features), -1, side, side)


def aligned(
    one: Tensor, other: Tensor, shrink: Callable[[Tensor, tuple[int, int]], Tensor] = adaptive_avg_pool2d
) -> tuple[Tensor, Tensor]:
    """Return both features as maps of the same height and width; the larger one has shrunk, along each axis.

    As many tokens as there are on the other side meet one by one, the class's too: they become maps of one column.

    :param shrink: average pooling to a given height and width, or another that takes the same arguments.
    :raises UsageError: for tokens that are no square grid where they meet other positions.
    """
    if one.dim() == other.dim() == 3 and one.shape[1] == other.shape[1]:
        return one.transpose(1, 2).unsqueeze(3), other.transpose(1, 2).unsqueeze(3)

    one, other = as_map(one), as_map(other)
    height, width = (min(one.shape[axis], other.shape[axis]) for axis in (2, 3))
    return _shrunk(one, height, width, shrink), _shrunk(other, height, width, shrink)


def real_tokens(inputs: Any, maps: Tensor) -> Tensor | None:
    """Return which positions hold a token of a text and not padding, ``(batch, tokens)`` of bool; ``None``: all do.

    :param inputs: of the batch; a text's have an ``attention_mask``.
    :param maps: ``(batch, channels, tokens, 1)``, as :func:`aligned` gives a text's; of anything else all count.
    """
    mask = inputs.get("attention_mask") if isinstance(inputs, Mapping) else None
    return mask.bool() if isinstance(mask, Tensor) and maps.shape[2:] == (mask.shape[1], 1) else None


def unpadded(inputs: Any, *maps: Tensor) -> tuple[list[Tensor], Tensor | float]:
    """Return maps of the same size with 0 where a text is padded, and the share of real positions in each example.

    :returns: the share is ``(batch,)``, or 1 where all positions count; a mean over positions is divided by it.
    """
    real = real_tokens(inputs, maps[0])
    if real is None:
        return list(maps), 1.0
    return [one * real[:, None, :, None] for one in maps], real.to(maps[0]).mean(1)


def _shrunk(features: Tensor, height: int, width: int, shrink: Callable[[Tensor, tuple[int, int]], Tensor]) -> Tensor:
    return features if features.shape[2:] == (height, width) else shrink(features, (height, width))


class Adapter(nn.Module):
    """Guesses a teacher's features from a student's: a convolution to the teacher's width, after average pooling.

    It is 1x1, a linear map at each position. Where a student's map is larger, but less than twice as large, pooling
    would blur it unevenly: the convolution then takes the surplus by its kernel, without padding, as in FitNets.

    :param mine: an example of the student's features; its device and type are the adapter's too.
    :param theirs: of the teacher's.
    """

    def __init__(self, mine: Tensor, theirs: Tensor) -> None:
        super().__init__()
        self.kernel = (1, 1)
        if mine.dim() == theirs.dim() == 4:
            surplus = [m - t for m, t in zip(mine.shape[2:], theirs.shape[2:], strict=True)]
            if all(0 <= more < size for more, size in zip(surplus, theirs.shape[2:], strict=True)):
                self.kernel = (surplus[0] + 1, surplus[1] + 1)

        before, after = (aligned(mine, theirs)[side].shape[1] for side in (0, 1))
        self.project = nn.Conv2d(before, after, self.kernel).to(mine)

    def forward(self, mine: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the guess and the teacher's features, both ``(batch, channels, height, width)``."""
        if self.kernel == (1, 1):
            mine, theirs = aligned(mine, theirs)
        return self.project(mine), theirs
