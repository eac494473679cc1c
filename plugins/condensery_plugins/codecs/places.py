"""What codecs with a table share: codes that are places in it."""

from __future__ import annotations

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
    if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < entries:
        raise ValueError(f"codes up to {int(codes.max())} for {entries} entries")
