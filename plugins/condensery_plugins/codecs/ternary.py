from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from condensery.nets import Cost, Leaf, whole_numbers

DIGITS = 3 ** np.arange(5, dtype=np.uint8)
TRITS = (np.arange(3**5)[:, None] // DIGITS % 3 - 1).astype(np.int32)
"""The five codes of each byte."""


class Ternary(Leaf):
    """Three neighbouring codes, -1, 0 and 1 by default, five to a byte: 1.6 bits each. The first is the lowest digit.

    :param low: the code that is the digit 0 in base 3; 0 for codes 0, 1 and 2.
    """

    key = "ternary"
    by_count = True

    def __init__(self, low: int = -1) -> None:
        if low not in (-1, 0):
            raise ValueError(f"{self.key}: codes from {low}; they start at -1 or 0")
        self.low = low

    def encode(self, values: Tensor) -> dict[str, Tensor]:
        """Return the packed bytes.

        :raises ValueError: if a code is none of the three.
        """
        codes = whole_numbers(values, self.key)
        low = self.low
        if codes.size and not low <= int(codes.min()) <= int(codes.max()) <= low + 2:
            which = f"{low}, {low + 1} or {low + 2}"
            raise ValueError(f"{self.key}: codes {codes.min()} to {codes.max()} are not all {which}")

        padded = np.zeros((_bytes(codes.size), 5), np.uint8)
        padded.reshape(-1)[: codes.size] = codes.astype(np.int8) - low
        data = np.zeros(len(padded), np.uint8)
        for place, digit in enumerate(DIGITS):
            data += padded[:, place] * digit
        return {"data": torch.from_numpy(data)}

    def decode(self, streams: Mapping[str, Tensor], shape: Sequence[int]) -> Tensor:
        """Return the codes as int32."""
        count, data = prod(shape), streams["data"].numpy()
        if data.size != _bytes(count):
            raise ValueError(f"{data.size} bytes for {count} codes")
        digits = torch.from_numpy(TRITS[data].reshape(-1)[:count]).view(list(shape))
        return digits + (self.low + 1) if self.low + 1 else digits

    def config(self) -> dict[str, Any]:
        """Return the lowest code, where it isn't -1."""
        return {} if self.low == -1 else {"low": self.low}

    def cost(self, values: Tensor) -> Cost:
        """Return a byte for each five codes."""
        return Cost(_bytes(values.numel()))


def _bytes(count: int) -> int:
    return -(-count // 5)
