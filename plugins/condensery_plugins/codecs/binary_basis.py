from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from condensery.nets import Branch, Coding, Dense
from condensery_plugins.codecs.places import check_places, packed_places


class BinaryBasis(Branch):
    """Sums of a few numbers, each with a plus or a minus: for each entry one bit for each number.

    Bit k of a code, the lowest being the first, is set where number k has a plus. They are added in their order, so
    that the sum is the same to the bit.

    :param basis: float32 ``(numbers, ...)``, each broadcasting against the tensor, such as one for each channel;
        ``None`` to decode.
    :param zeros: code 0 is the value zero, and the others count from 1.
    """

    key = "binary-basis"
    main = "codes"
    tables = frozenset({"basis"})

    def __init__(self, basis: Tensor | None = None, zeros: bool = False) -> None:
        self.basis = torch.zeros(0) if basis is None else basis.detach().cpu().to(torch.float32)
        self.zeros = zeros

    def encode(self, values: Tensor) -> dict[str, Tensor]:
        """Return codes, of the tensor's shape, and the basis.

        :raises ValueError: if a value is no such sum.
        """
        flat = values.detach().cpu().to(torch.float32)
        codes = torch.where(flat == 0, 0, -1).to(torch.int32) if self.zeros else torch.full(flat.shape, -1).int()
        for number in range(2 ** len(self.basis)):
            place = torch.tensor(number)
            codes[(codes < 0) & (flat == signed_sum(place, self.basis))] = number + self.zeros
        if bool((codes < 0).any()):
            raise ValueError(f"{self.key}: {int((codes < 0).sum())} values are no sums of the basis")
        return {"codes": codes, "basis": self.basis}

    def decode(self, streams: Mapping[str, Tensor], shape: Sequence[int]) -> Tensor:
        """Return the sums that the codes stand for."""
        codes, basis = streams["codes"].view(list(shape)), streams["basis"]
        check_places(codes, 2 ** len(basis) + self.zeros)
        sums = signed_sum(codes - int(self.zeros), basis)
        return torch.where(codes == 0, 0.0, sums) if self.zeros else sums

    def config(self) -> dict[str, Any]:
        """Return whether there is a code for zero."""
        return {"zeros": self.zeros}

    def parts(self) -> dict[str, Coding]:
        """Return codes of as many bits as there are numbers, one more with zeros, and float32 numbers."""
        return {"codes": packed_places(2 ** len(self.basis) + self.zeros), "basis": Coding(Dense())}


def signed_sum(codes: Tensor, basis: Tensor) -> Tensor:
    """Return for each code the sum of a basis with its signs, added in order.

    :param codes: whole numbers, of any shape that the numbers of the basis broadcast against.
    :param basis: ``(numbers, ...)``.
    """
    total = torch.zeros((), dtype=basis.dtype, device=basis.device)
    for place, number in enumerate(basis):
        total = total + number * (2 * (codes >> place & 1) - 1).to(basis.dtype)
    return total.expand(torch.broadcast_shapes(total.shape, codes.shape))
