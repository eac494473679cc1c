from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from condensery.nets import Branch, Coding, Dense
from condensery_plugins.codecs.codebook_places import Places, distinct
from condensery_plugins.codecs.places import check_places, packed_places

LARGEST = 2**16
"""Values in a codebook; with more, indices save too little."""


class Palette(Branch):
    """Few distinct values: a codebook of them, and for each entry its place there.

    If zero is in the codebook it comes first, so that code 0 is the value zero; the rest ascend.

    :param codebook: float32 values that may occur, in any order, such as the tensor itself; ``None`` to decode.
    :raises ValueError: if there are more than 2^16 values, or one is not a number.
    """

    key = "palette"
    main = "codes"
    tables = frozenset({"codebook"})

    def __init__(self, codebook: Tensor | None = None) -> None:
        ascending = torch.zeros(0) if codebook is None else distinct(self._float32(codebook))
        if len(ascending) > LARGEST:
            raise ValueError(f"{self.key}: {len(ascending)} distinct values, more than {LARGEST}")
        if bool(ascending.isnan().any()):
            raise ValueError(f"{self.key}: a value is not a number")

        others = ascending[ascending != 0]
        self.codebook = others if len(others) == len(ascending) else torch.cat([torch.zeros(1), others])

    def encode(self, values: Tensor) -> dict[str, Tensor]:
        """Return codes, of the tensor's shape, and the codebook.

        :raises ValueError: if a value isn't in the codebook.
        """
        flat = self._float32(values).flatten()
        codes, right = Places(self.codebook).of(flat)
        if not right:
            raise ValueError(f"{self.key}: a value is not in the codebook")
        return {"codes": codes.view(values.shape), "codebook": self.codebook}

    def decode(self, streams: Mapping[str, Tensor], shape: Sequence[int]) -> Tensor:
        """Return the values that the codes stand for."""
        codes, codebook = streams["codes"], streams["codebook"]
        check_places(codes, len(codebook))
        return codebook.index_select(0, codes.flatten()).view(list(shape))

    def parts(self) -> dict[str, Coding]:
        """Return codes as wide as the codebook needs, and float32 values."""
        return {"codes": packed_places(len(self.codebook)), "codebook": Coding(Dense())}

    def _float32(self, values: Tensor) -> Tensor:
        if values.dtype == torch.float64 and bool((values.float() == values).all()):
            values = values.float()  # levels that a transform left on a net of float64
        if values.dtype != torch.float32:
            raise ValueError(f"{self.key}: {values.dtype} is not float32")
        return values.detach().cpu()
