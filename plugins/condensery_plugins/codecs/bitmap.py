from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

import numpy as np
import torch
from torch import Tensor

from condensery.nets import Branch, Coding, Dense
from condensery_plugins.codecs.places import places_of_nonzeros


class Bitmap(Branch):
    """One bit for each position, set where the entry is not zero, and the entries that are not zero.

    The first position is the lowest bit of the first byte.
    """

    key = "bitmap"
    main = "values"

    def encode(self, values: Tensor) -> dict[str, Tensor]:
        """Return entries, ``(entries,)``, and bits, ``(bytes,)`` of uint8."""
        flat = values.detach().cpu().flatten()
        bits = np.packbits((flat != 0).numpy(), bitorder="little")
        return {"values": flat.index_select(0, places_of_nonzeros(flat)), "bits": torch.from_numpy(bits)}

    def decode(self, streams: Mapping[str, Tensor], shape: Sequence[int]) -> Tensor:
        """Return the tensor, zeros where no bit is set."""
        count, bits, entries = prod(shape), streams["bits"], streams["values"]
        if bits.dtype != torch.uint8 or len(bits) != -(-count // 8):
            raise ValueError(f"{len(bits)} bytes of bits for {count} positions")

        places = places_of_nonzeros(torch.from_numpy(np.unpackbits(bits.numpy(), count=count, bitorder="little")))
        if len(places) != len(entries):
            raise ValueError(f"{len(entries)} entries for {len(places)} set bits")
        return torch.zeros(count, dtype=entries.dtype).scatter_(0, places, entries).view(list(shape))

    def parts(self) -> dict[str, Coding]:
        """Return float32 values and the bits as they are."""
        return {"values": Coding(Dense()), "bits": Coding(Dense("uint8"))}
