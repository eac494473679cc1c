from __future__ import annotations

import torch
from torch import Tensor

from condensery.nets import Branch, Coding, Leaf
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
    cheapest = min(leaf, _before(Bitmap(), leaf), relative, key=lambda c: _price(c, stream))
    return coding.map_main(lambda _: cheapest)


def _before(codec: Bitmap | SparseIndex, leaf: Coding) -> Coding:
    """Return a sparse codec whose entries a leaf stores."""
    return Coding(codec, {"values": leaf})


def _price(coding: Coding, values: Tensor) -> int:
    """Return the bytes of a tensor under a coding; it is encoded only where its leaf's cost depends on the values."""
    codec = coding.codec
    if isinstance(codec, Leaf) or not (isinstance(leaf := coding.part(codec.main).codec, Leaf) and leaf.by_count):
        return coding.cost(values).total

    def stored(part: Coding, count: int, dtype: torch.dtype) -> int:
        return part.cost(torch.empty(count, dtype=dtype, device="meta")).total

    if isinstance(codec, SparseIndex):
        count = codec.entries(values)
        places = stored(coding.part("index"), count, torch.int32)
    else:
        count = int(values.count_nonzero())
        places = stored(coding.part("bits"), -(-values.numel() // 8), torch.uint8)
    return places + stored(coding.part(codec.main), count, values.dtype)


def _end(coding: Coding, values: Tensor) -> tuple[Coding, Tensor]:
    """Return the leaf of a chain and what it stores."""
    while isinstance(coding.codec, Branch):
        codec, main = coding.codec, coding.codec.main
        coding, values = coding.part(main), codec.encode(values)[main]
    return coding, values
