"""Surgery on attention nets: heads, head dimensions, MLP neurons, layers and width, without patches to the nets.

Everything goes by tables of exact classes, because shapes don't tell a fused ``(3, heads, dims)`` projection from one
that is laid out head by head, or the residual stream from a classifier that happens to be as wide. What isn't in a
table is refused by name. A cut is proven before it is applied; see :mod:`condensery.attention.proof`.
"""

from __future__ import annotations

from condensery.attention.anatomy import Anatomy
from condensery.attention.blocks import LayerUnit, layers_of
from condensery.attention.heads import HeadDims, Heads, heads_of
from condensery.attention.neurons import Neurons, neurons_of
from condensery.attention.streams import Width, widths_of

__all__ = [
    "Anatomy",
    "HeadDims",
    "Heads",
    "LayerUnit",
    "Neurons",
    "Width",
    "heads_of",
    "layers_of",
    "neurons_of",
    "widths_of",
]
