from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from condensery.nets import BitPack, Branch, Coding, Dense

LARGEST = 2**16
"""Values in a codebook; with more, indices save too little."""


class Palette(Branch):
    """Few distinct values: a codebook of them, and for each entry its place there.

    If zero is in the codebook it comes first, so that code 0 is the value zero; the rest ascend.

    :param codebook: float32 values that may occur, in any order; ``None`` to decode.
    """

    key = "palette"
    main = "codes"
    tables = frozenset({"codebook"})

    def __init__(self, codebook: Tensor | None = None) -> None:
        self.codebook = torch.zeros(0) if codebook is None else _zero_first(_float32(codebook))

    @classmethod
    def of(cls, values: Tensor) -> Palette:
        """Return the codec for the values that a tensor has.

        :raises ValueError: if there are more than 2^16, or one is not a number.
        """
        return cls(values)

    def encode(self, values: Tensor) -> dict[str, Tensor]:
        """Return codes, of the tensor's shape, and the codebook.

        :raises ValueError: if a value isn't in the codebook.
        """
        flat = _float32(values).flatten()
        ascending, order = self.codebook.sort()
        codes = torch.zeros(flat.shape, dtype=torch.int32)
        if len(flat):
            places = torch.bucketize(flat, ascending, out_int32=True).clamp_(max=max(len(ascending) - 1, 0))
            if not len(ascending) or not torch.equal(ascending[places], flat):
                raise ValueError("palette: a value is not in the codebook")
            codes = order.to(torch.int32)[places]
        return {"codes": codes.view(values.shape), "codebook": self.codebook}

    def decode(self, streams: Mapping[str, Tensor], shape: Sequence[int]) -> Tensor:
        """Return the values that the codes stand for."""
        codes, codebook = streams["codes"], streams["codebook"]
        if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < len(codebook):
            raise ValueError(f"codes up to {int(codes.max())} for {len(codebook)} values")
        return codebook[codes.flatten()].view(list(shape))

    def parts(self) -> dict[str, Coding]:
        """Return codes as wide as the codebook needs, and float32 values."""
        width = max(len(self.codebook) - 1, 0).bit_length()
        return {"codes": Coding(BitPack(width)), "codebook": Coding(Dense())}


def _float32(values: Tensor) -> Tensor:
    if values.dtype != torch.float32:
        raise ValueError(f"palette: {values.dtype} is not float32")
    return values.detach().cpu()


def _zero_first(values: Tensor) -> Tensor:
    ascending = torch.unique(values)
    if len(ascending) > LARGEST:
        raise ValueError(f"palette: {len(ascending)} distinct values, more than {LARGEST}")
    if bool(ascending.isnan().any()):
        raise ValueError("palette: a value is not a number")
    others = ascending[ascending != 0]
    return others if len(others) == len(ascending) else torch.cat([torch.zeros(1), others])
