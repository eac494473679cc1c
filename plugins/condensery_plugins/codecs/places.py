"""What codecs share that deal in places: codes that are places in a table, and where entries stand in a tensor."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from condensery.nets import BitPack, Coding


def packed_places(entries: int) -> Coding:
    """Return how places in a table are stored: packed, as wide as the last one needs.

    :param entries: of the table.
    """
    return Coding(BitPack(max(entries - 1, 0).bit_length()))


def check_places(codes: Tensor, entries: int) -> None:
    """Refuse codes that are no places in a table.

    :param codes: whole numbers, of any shape.
    :param entries: of the table.
    :raises ValueError: naming the largest code.
    """
    lowest, highest = (int(code) for code in codes.aminmax()) if codes.numel() else (0, -1)
    if not lowest >= 0 or highest >= entries:
        raise ValueError(f"codes up to {highest} for {entries} entries")


def places_of_nonzeros(values: Tensor) -> Tensor:
    """Return where the entries that are not zero stand in the flattened tensor: int64, ascending."""
    there = values.detach().cpu().flatten() != 0
    return torch.from_numpy(np.flatnonzero(there.numpy()))  # ten times as fast as torch's own
