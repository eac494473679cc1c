"""Groups of a layer's weights: its filters, channels, filter shapes, or the layer as a whole.

A weight is looked at as ``(convolution groups, filters, inputs, positions)``; a linear layer has one convolution group
and one position in the kernel.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from condensery import Weight

KINDS: Mapping[str, tuple[int, ...]] = {
    "filter": (2, 3),
    "channel": (1, 3),
    "shape": (1,),
    "depth": (0, 1, 2, 3),
}
"""By kind of group, the dimensions of ``(convolution groups, filters, inputs, positions)`` along which a group runs."""


@dataclass(frozen=True, eq=False)
class Groups:
    """The weights of a layer, parted into groups of one kind.

    What is said of groups has four dimensions too, ``(convolution groups, filters, inputs, positions)``, and one entry
    in those along which a group runs: so it broadcasts against the weights.

    :param kind: one of :data:`KINDS`.
    """

    tensor: Weight
    kind: str

    @property
    def size(self) -> int:
        """How many weights a group has."""
        shape = self._grouped(self.tensor.latent).shape
        return math.prod(shape[d] for d in KINDS[self.kind])

    def norms(self) -> Tensor:
        """Return the L2 norm of each group, differentiable; the gradient at a group of zeros is zero.

        Weights that a mask holds count as zero.
        """
        values = self._grouped(living(self.tensor))
        found: Tensor = torch.linalg.vector_norm(values, dim=KINDS[self.kind], keepdim=True)
        return found

    def strengths(self) -> Tensor:
        """Return the root mean square of each group's weights, without a gradient."""
        return self.norms().detach() / math.sqrt(self.size)

    def around(self, chosen: Tensor) -> Tensor:
        """Return the groups that the chosen weights belong to: bool, one for each group.

        :param chosen: bool, of the weight's shape.
        """
        return self._grouped(chosen).any(KINDS[self.kind], keepdim=True)

    def spread(self, chosen: Tensor) -> Tensor:
        """Return which weights are in one of the chosen groups: bool, of the weight's shape.

        :param chosen: bool, one for each group.
        """
        rows = self.tensor.rows(self.tensor.latent)
        return self.tensor.from_rows(chosen.expand(self._grouped(self.tensor.latent).shape).reshape(rows.shape))

    def _grouped(self, values: Tensor) -> Tensor:
        return grouped(self.tensor.module, self.tensor.rows(values))


def grouped(module: nn.Module, values: Tensor) -> Tensor:
    """Return weights of a layer as ``(convolution groups, filters, inputs, positions)``.

    :param values: of shape ``(filters of all convolution groups, inputs, ...)``.
    """
    groups = int(getattr(module, "groups", 1))
    return values.reshape(groups, len(values) // groups, values.shape[1], -1)


def with_largest(keep: Tensor, scores: Tensor) -> Tensor:
    """Return the groups that stay, and with them the one with the highest score of each convolution group.

    :param keep: bool, one for each group of weights.
    :param scores: numbers, one for each group of weights.
    """
    flat = keep.flatten(1)
    return flat.scatter(1, scores.flatten(1).argmax(1, keepdim=True), True).view(keep.shape)


def living(weight: Weight) -> Tensor:
    """Return the trained weights, zero where a mask holds them; differentiable."""
    latent = weight.latent
    return latent if weight.stack is None else torch.where(weight.alive, latent, torch.zeros_like(latent))
