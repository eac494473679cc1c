"""Groups of a layer's weights: filters, channels, filter shapes and the layer as a whole, and their norms.

Weights are looked at as ``(convolution groups, filters, inputs, positions)``; a linear layer has one group and one
position. Norms keep these four dimensions, so that they broadcast against the weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from condensery.nets import Weight

KINDS: Mapping[str, tuple[int, ...]] = {
    "filter": (2, 3),
    "channel": (1, 3),
    "shape": (1,),
    "depth": (0, 1, 2, 3),
}
"""By kind of group, the dimensions over which one of them runs."""


def grouped(module: nn.Module, values: Tensor) -> Tensor:
    """Return weights of a layer as ``(convolution groups, filters, inputs, positions)``."""
    groups = int(getattr(module, "groups", 1))
    return values.reshape(groups, len(values) // groups, values.shape[1], -1)


def norms(module: nn.Module, values: Tensor, kind: str) -> Tensor:
    """Return the L2 norm of each group; its gradient at a group of zeros is zero.

    :param values: of the layer's weight's shape.
    """
    found: Tensor = torch.linalg.vector_norm(grouped(module, values), dim=KINDS[kind], keepdim=True)
    return found


def size(module: nn.Module, values: Tensor, kind: str) -> int:
    """Return how many weights a group has."""
    shape = grouped(module, values).shape
    return math.prod(shape[d] for d in KINDS[kind])


def spread(module: nn.Module, values: Tensor, keep: Tensor) -> Tensor:
    """Return what is said of groups for each weight.

    :param values: of the layer's weight's shape.
    :param keep: of the shape of :func:`norms`.
    """
    return keep.expand(grouped(module, values).shape).reshape(values.shape)


def with_largest(keep: Tensor, scores: Tensor) -> Tensor:
    """Return what stays, with the largest of each convolution group added, so that no layer is left empty.

    :param keep: bool, of the shape of :func:`norms`.
    :param scores: norms of the same shape.
    """
    flat = keep.flatten(1)
    return flat.scatter(1, scores.flatten(1).argmax(1, keepdim=True), True).view(keep.shape)


def living(weight: Weight) -> Tensor:
    """Return the trained weights, zero where a mask holds them; differentiable."""
    latent = weight.latent
    return latent if weight.stack is None else torch.where(weight.alive, latent, torch.zeros_like(latent))
