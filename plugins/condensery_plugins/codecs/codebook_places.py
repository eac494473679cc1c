"""Finding values in a small codebook, and the codebook in the values, without sorting them."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

FEW = 256
"""Values for which a hash without collisions is found fast."""
_LOT = 2**15
"""Values looked at together: so few that what is worked out of them stays in the processor's cache."""


class Places:
    """Where values stand in a codebook.

    Few are found through a table: their bits, times an odd number, differ in the upper 16 for all entries. The number
    is found by trying. Many are found by bisection.

    :param codebook: float32 ``(entries,)``, all different.
    """

    def __init__(self, codebook: Tensor) -> None:
        self.codebook = codebook
        self._table: NDArray[np.uint8] | None = None
        bits = codebook.numpy().view(np.uint32)
        for number in np.random.default_rng(0).integers(0, 2**31, 64, dtype=np.uint32) * 2 + 1:
            hashed = bits * number >> 16
            if len(bits) <= FEW and len(np.unique(hashed)) == len(bits):
                self._number, self._table = number, np.zeros(2**16, np.uint8)
                self._table[hashed] = np.arange(len(bits))
                break

    def of(self, values: Tensor) -> tuple[Tensor, bool]:
        """Return the places, int32, and whether each value is in the codebook: otherwise its place is any.

        :param values: float32, flat.
        """
        if not len(self.codebook) or self._table is None:
            ascending, order = self.codebook.sort()
            places = torch.bucketize(values, ascending, out_int32=True).clamp_(max=max(len(ascending) - 1, 0))
            right = not len(values) or (bool(len(ascending)) and torch.equal(ascending[places], values))
            return order.to(torch.int32)[places] if right else places, right

        found = np.empty(len(values), np.int32)
        for start in range(0, len(values), _LOT):
            found[start : start + _LOT], there = self._lot(values[start : start + _LOT].numpy())
            if not there.all():
                return torch.from_numpy(found), False
        return torch.from_numpy(found), True

    def _lot(self, values: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Return the places of a few values, and which of them are in the codebook."""
        assert self._table is not None
        bits = (values + np.float32(0)).view(np.uint32)  # adding makes a zero of a negative zero
        places = self._table.take(bits * self._number >> 16)
        return places, self.codebook.numpy().take(places) == values

    def missing(self, values: Tensor) -> Tensor:
        """Return those of a few values that are not in the codebook."""
        if not len(self.codebook) or self._table is None:
            return values
        flat = values.numpy()
        return torch.from_numpy(flat[~self._lot(flat)[1]])


def distinct(values: Tensor) -> Tensor:
    """Return the values that occur, ascending.

    :param values: float32, of any shape.
    """
    flat = values.flatten()
    found = Places(torch.zeros(0))
    for lot in torch.split(flat, _LOT):
        missing = found.missing(lot)
        if not len(missing):
            continue
        codebook = torch.unique(torch.cat([found.codebook, missing]))
        if len(codebook) > FEW:
            every: Tensor = torch.unique(flat)
            return every
        found = Places(codebook)
    return found.codebook
