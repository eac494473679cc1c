from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from condensery.nets import BitPack, Branch, Coding


class Offset(Branch):
    """Whole numbers, counted from the one that stands for zero: so that sparse codecs find the zeros.

    :param by: that number.
    """

    key = "offset"
    main = "numbers"

    def __init__(self, by: int) -> None:
        self.by = by

    @classmethod
    def packed(cls, values: Tensor, by: int) -> Coding:
        """Return the coding of whole numbers in as few bits as their range needs."""
        codec = cls(by)
        return Coding(codec, {cls.main: Coding(BitPack.of(codec.encode(values)[cls.main]))})

    def encode(self, values: Tensor) -> dict[str, Tensor]:
        """Return the differences, int32, of the tensor's shape.

        :raises ValueError: if the values are no whole numbers.
        """
        if values.is_floating_point():
            raise ValueError(f"{self.key}: {values.dtype} are not whole numbers")
        return {self.main: values.detach().cpu().to(torch.int32) - self.by}

    def decode(self, streams: Mapping[str, Tensor], shape: Sequence[int]) -> Tensor:
        """Return the numbers as int32."""
        return streams[self.main].to(torch.int32) + self.by

    def config(self) -> dict[str, Any]:
        """Return the number that stands for zero."""
        return {"by": self.by}

    def parts(self) -> dict[str, Coding]:
        """Return differences of up to 9 bits: those of two numbers of 8."""
        return {self.main: Coding(BitPack(9, -256))}
