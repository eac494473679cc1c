from __future__ import annotations

from torch import Tensor

from condensery.nets import Branch, Coding
from condensery_plugins.codecs.bitmap import Bitmap
from condensery_plugins.codecs.sparse_index import SparseIndex


def sparse(coding: Coding, final: Tensor, index_bits: int | None = None) -> Coding:
    """Return a coding with a sparse codec before the leaf of its chain, or unchanged where that is cheapest.

    The choice is between no sparse codec, a bitmap, and relative indices of the best width.

    :param coding: how the transforms before the mask store the tensor.
    :param final: the tensor, of any shape, zeros included.
    :param index_bits: relative indices of this width, whatever they cost.
    """
    if index_bits is not None:
        return coding.map_main(lambda leaf: _before(SparseIndex(index_bits), leaf))

    leaf, stream = _end(coding, final)
    inner = 8 * leaf.cost(stream).total / max(stream.numel(), 1)
    relative = _before(SparseIndex.cheapest(stream, inner), leaf)
    cheapest = min(leaf, _before(Bitmap(), leaf), relative, key=lambda c: c.cost(stream).total)
    return coding.map_main(lambda _: cheapest)


def _before(codec: Bitmap | SparseIndex, leaf: Coding) -> Coding:
    """Return a sparse codec whose entries a leaf stores."""
    return Coding(codec, {"values": leaf})


def _end(coding: Coding, values: Tensor) -> tuple[Coding, Tensor]:
    """Return the leaf of a chain and what it stores."""
    while isinstance(coding.codec, Branch):
        codec, main = coding.codec, coding.codec.main
        coding, values = coding.part(main), codec.encode(values)[main]
    return coding, values
