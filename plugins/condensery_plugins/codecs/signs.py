from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

import numpy as np
import torch
from torch import Tensor

from condensery.nets import Cost, Leaf, whole_numbers


class Signs(Leaf):
    """Codes -1 and 1 in one bit each, set for 1; the first is the lowest bit of the first byte."""

    key = "signs"
    by_count = True

    def encode(self, values: Tensor) -> dict[str, Tensor]:
        """Return the packed bytes.

        :raises ValueError: if a code is neither -1 nor 1.
        """
        codes = whole_numbers(values, self.key)
        if not np.isin(codes, (-1, 1)).all():
            raise ValueError(f"{self.key}: codes {codes.min()} to {codes.max()} are not all -1 or 1")
        return {"data": torch.from_numpy(np.packbits(codes > 0, bitorder="little"))}

    def decode(self, streams: Mapping[str, Tensor], shape: Sequence[int]) -> Tensor:
        """Return the codes as int32."""
        count, data = prod(shape), streams["data"].numpy()
        if data.size != -(-count // 8):
            raise ValueError(f"{data.size} bytes for {count} signs")
        bits = np.unpackbits(data, count=count, bitorder="little").astype(np.int32)
        return torch.from_numpy(2 * bits - 1).view(list(shape))

    def cost(self, values: Tensor) -> Cost:
        """Return a byte for each eight codes."""
        return Cost(-(-values.numel() // 8))
