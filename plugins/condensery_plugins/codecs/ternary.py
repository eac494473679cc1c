from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

import numpy as np
import torch
from torch import Tensor

from condensery.nets import Cost, Leaf, whole_numbers

DIGITS = 3 ** np.arange(5, dtype=np.uint8)
TRITS = (np.arange(3**5)[:, None] // DIGITS % 3 - 1).astype(np.int32)
"""The five codes of each byte."""


class Ternary(Leaf):
    """Codes -1, 0 and 1, five to a byte: 1.6 bits each. The first is the lowest digit in base 3, -1 the digit 0."""

    key = "ternary"
    by_count = True

    def encode(self, values: Tensor) -> dict[str, Tensor]:
        """Return the packed bytes.

        :raises ValueError: if a code is not -1, 0 or 1.
        """
        codes = whole_numbers(values, self.key)
        if codes.size and not -1 <= int(codes.min()) <= int(codes.max()) <= 1:
            raise ValueError(f"{self.key}: codes {codes.min()} to {codes.max()} are not all -1, 0 or 1")

        padded = np.zeros((_bytes(codes.size), 5), np.uint8)
        padded.reshape(-1)[: codes.size] = codes.astype(np.int8) + 1
        data = np.zeros(len(padded), np.uint8)
        for place, digit in enumerate(DIGITS):
            data += padded[:, place] * digit
        return {"data": torch.from_numpy(data)}

    def decode(self, streams: Mapping[str, Tensor], shape: Sequence[int]) -> Tensor:
        """Return the codes as int32."""
        count, data = prod(shape), streams["data"].numpy()
        if data.size != _bytes(count):
            raise ValueError(f"{data.size} bytes for {count} codes")
        return torch.from_numpy(TRITS[data].reshape(-1)[:count]).view(list(shape))

    def cost(self, values: Tensor) -> Cost:
        """Return a byte for each five codes."""
        return Cost(_bytes(values.numel()))


def _bytes(count: int) -> int:
    return -(-count // 5)
