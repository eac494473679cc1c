from __future__ import annotations

from torch import Tensor

from condensery import Transform
from condensery.nets import STORE, BitPack, Branch, Coding
from condensery_plugins.codecs.huffman import WIDEST, Huffman
from condensery_plugins.codecs.ternary import Ternary


class EntropyCoded(Transform):
    """Leaves the values alone; in an artifact, packed whole numbers are stored by a Huffman code where it is smaller.

    Han et al. [89], section 4: codes and indices of each layer apart, each with a table of its own.
    """

    key = "entropy-coded"
    rank = STORE

    def forward(self, value: Tensor) -> Tensor:
        """Return the value."""
        return value

    def code(self, coding: Coding, final: Tensor) -> Coding:
        """Return the same tree with Huffman leaves in place of packed ones that cost more."""
        return _shortened(coding, final)


def _shortened(coding: Coding, values: Tensor) -> Coding:
    """Return a tree with Huffman leaves where they are shorter, given what it stores."""
    codec = coding.codec
    if isinstance(codec, Branch):
        streams = codec.encode(values)
        return Coding(codec, {name: _shortened(coding.part(name), stream) for name, stream in streams.items()})

    if not isinstance(codec, Ternary) and (not isinstance(codec, BitPack) or 2**codec.bits > WIDEST):
        return coding
    shorter = Coding(Huffman())
    return shorter if shorter.cost(values).total < coding.cost(values).total else coding
