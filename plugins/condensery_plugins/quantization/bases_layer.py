"""Layers whose weights and inputs are sums of a few numbers, each with a plus or a minus: they count bits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from condensery.nets import BitPack, Leaf
from condensery_plugins.codecs.binary_basis import signed_sum
from condensery_plugins.quantization.packed_layers import Packed
from condensery_plugins.quantization.packed_words import Words, counted, packed, words


class BasesLayer(Packed):
    """Sums of signs times sums of signs: for each pair of a weight's number and an input's the common bits are counted.

    With bits u of an input, its number b stands for b u, and with signs for 2 b u - b. The latter is -b times a bit
    that is set everywhere but in the padding, which is real zero. A sum of n signs times bits is twice the number of
    common ones less that of the bits. The counts are exact, and are summed in float64.

    :param planes: numbers of an input's sum.
    :param signed: they have a plus or a minus, otherwise they are there or not.
    """

    key = "bases-layer"
    units: Tensor

    def __init__(self, planes: int = 1, signed: bool = True, **settings: Any) -> None:
        super().__init__(**settings)
        self.planes, self.signed = planes, signed
        self.register_buffer("units", torch.zeros(planes))

    @classmethod
    def of(cls, codes: Tensor, numbers: Tensor, units: Tensor, signed: bool, settings: Mapping[str, Any]) -> BasesLayer:
        """Return a layer with some numbers.

        :param codes: of the weight, of its shape; bit k is set where number k has a plus.
        :param numbers: of the weight, ``(numbers, outputs)``.
        :param units: the numbers of the input.
        :param settings: see :meth:`.Packed.filled`.
        """
        wider = {**settings, "weight_bits": len(numbers), "planes": len(units), "signed": signed}
        made = cls.filled(codes, numbers, **wider)
        made.units = units.detach().float().clone()
        return made

    def config(self) -> dict[str, Any]:
        """Return what a layer on codes does, and how many numbers an input has."""
        return {**super().config(), "planes": self.planes, "signed": self.signed}

    @property
    def weight(self) -> Tensor:
        """The real weight, of the layer's ``shape``."""
        return signed_sum(self.codes, self._each.view(self.weight_bits, -1, *[1] * (len(self.shape) - 1)))

    @property
    def _scales(self) -> int:
        return self.weight_bits

    @property
    def input_bits(self) -> int:
        """Width of an input's code."""
        return self.planes

    def leaf(self) -> Leaf:
        """Return how a code is stored."""
        return BitPack(self.weight_bits)

    def encoded(self, x: Tensor) -> tuple[Tensor, float]:
        """Return the bits of the nearest sums, eight to a byte, number after number; with signs also set ones."""
        places = torch.arange(2**self.planes, device=x.device)
        levels = self._levels(places)
        ascending, order = levels.sort()
        between = (ascending[1:] + ascending[:-1]) / 2
        codes = order[torch.bucketize(x.float().contiguous(), between)]

        bits = [codes >> plane & 1 for plane in range(self.planes)]
        if self.signed:
            bits.append(torch.ones_like(codes))
        return torch.cat([packed(plane.bool()) for plane in bits], -1), 0

    def _levels(self, codes: Tensor) -> Tensor:
        """Return the values that an input's codes stand for."""
        if self.signed:
            return signed_sum(codes, self.units)
        return sum((unit * (codes >> place & 1) for place, unit in enumerate(self.units)), torch.zeros(()))

    def prepared(self, codes: Tensor) -> list[Words]:
        """Return, number after number, where the weight has a plus, ``(outputs, words)``."""
        return [words(packed((codes >> place & 1).bool()).flatten(1)) for place in range(self.weight_bits)]

    def sums(self, rows: Tensor, weight: list[Words], scales: Tensor) -> Tensor:
        """Return counts, scaled."""
        units = self.units.double()
        if self.signed:
            units = torch.cat([2 * units, -units.sum()[None]])

        by_plane = rows.view(len(rows), -1, len(units), -(-self.shape[1] // 8))
        out = torch.zeros(len(rows), scales.shape[1], dtype=torch.float64)
        for plane, unit in enumerate(units):
            seen = words(by_plane[:, :, plane].flatten(1))
            used = torch.from_numpy(np.bitwise_count(seen).sum(1, dtype=np.int32))[:, None]
            for number, signs in zip(scales.double(), weight, strict=True):
                out += (2 * counted(np.bitwise_and, seen, signs) - used) * (unit * number)
        return out.to(scales)
