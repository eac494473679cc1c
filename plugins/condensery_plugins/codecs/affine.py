from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from condensery.nets import BitPack, Branch, Coding, Dense

TOLERANCE, PER_CODE = 1e-3, 1e-6
"""How far from the grid a value may be, in steps: a constant, and float32's rounding of large multiples."""


class Affine(Branch):
    """Values on a grid: ``value = scale * code``, with one scale, one per channel, or one per group in a row.

    Decoding is exactly that product in float32. A grid with a zero point, ``scale * (q - zero)``, is stored by the
    same codes q - zero, so that code 0 is the value zero; the zero point only moves the range of the codes.

    :param bits: of q, the number of a level.
    :param scale: 0-dimensional, or broadcasting against the tensor as ``(C, 1, 1, 1)``; with ``group`` of shape
        (rows, groups in a row). ``None`` to decode.
    :param zero: the level that is zero, levels counting from 0; ``None`` for -2^(bits-1) .. 2^(bits-1) - 1. Zero
        points that differ between channels widen the packed codes by the range they cover.
    :param group: entries of a row that share a scale; a row is what one index of dimension 0 selects, the last group
        of a row may be shorter, and a tensor of fewer than two dimensions is one row.
    """

    key = "affine"
    main = "codes"
    tables = frozenset({"scale"})

    def __init__(
        self, bits: int, scale: Tensor | None = None, zero: int | Tensor | None = None, group: int | None = None
    ) -> None:
        if not 1 <= bits <= 32 or (group is not None and group < 1):
            raise ValueError(f"{self.key}: {bits} bits, groups of {group}")
        self.bits, self.group = bits, group
        self.scale = None if scale is None else scale.detach().cpu().to(torch.float32)
        self.zero = 2 ** (bits - 1) if zero is None else zero

    def encode(self, values: Tensor) -> dict[str, Tensor]:
        """Return codes, of the tensor's shape, and the scale, of its own.

        :raises ValueError: if a value is further from the grid than a thousandth of a step, and a millionth of itself.
        """
        if self.scale is None:
            raise ValueError(f"{self.key}: built without a scale, so it only decodes")

        flat = values.detach().cpu().to(torch.float32)
        # Zero by zero is zero here: a channel that is all zero may have the scale zero.
        steps = (flat / spread(self.scale, values.shape, self.group)).masked_fill_(flat == 0, 0)
        codes = steps.round()

        off, sizes = steps.sub_(codes).abs_(), codes.abs()
        if sizes.numel() and float(sizes.max()) >= 2**24:
            raise ValueError(f"{self.key}: a value is {float(sizes.max()):.3g} steps; float32 has no such grid")
        if not bool((off <= sizes.mul_(PER_CODE).add_(TOLERANCE)).all()):
            raise ValueError(f"{self.key}: a value is {float(off.max()):.3g} of a step off the grid")

        return {"codes": codes.to(torch.int32), "scale": self.scale}

    def decode(self, streams: Mapping[str, Tensor], shape: Sequence[int]) -> Tensor:
        """Return codes times scale."""
        codes = streams["codes"].view(list(shape))
        return codes.to(torch.float32) * spread(streams["scale"], codes.shape, self.group)

    def config(self) -> dict[str, Any]:
        """Return width and group; scales are in their stream."""
        return {"bits": self.bits} if self.group is None else {"bits": self.bits, "group": self.group}

    def parts(self) -> dict[str, Coding]:
        """Return codes packed in the range of the levels, and float32 scales."""
        zeros = torch.as_tensor(self.zero)
        low, high = -int(zeros.max()), 2**self.bits - 1 - int(zeros.min())
        return {"codes": Coding(BitPack((high - low).bit_length(), low)), "scale": Coding(Dense())}

    def spelled(self) -> str:
        """Return the width."""
        return f"{self.key}({self.bits})"


def spread(scale: Tensor, shape: torch.Size, group: int | None) -> Tensor:
    """Return scales so that they broadcast against a tensor.

    :param scale: broadcasting already, or with ``group`` of shape (rows, groups in a row).
    :param shape: of the tensor.
    :param group: entries of a row that share a scale.
    :raises ValueError: if there are other scales than the tensor needs.
    """
    if group is None:
        pairs = zip(reversed(scale.shape), reversed(shape), strict=False)
        if scale.dim() > len(shape) or any(own not in (1, size) for own, size in pairs):
            raise ValueError(f"{Affine.key}: a scale of shape {tuple(scale.shape)} for a tensor of {tuple(shape)}")
        return scale

    rows = shape[0] if len(shape) > 1 else 1
    columns = prod(shape) // rows if rows else 0
    if scale.shape != (rows, -(-columns // group)):
        raise ValueError(f"{Affine.key}: scales {tuple(scale.shape)}, {rows} rows of {columns} by {group}")
    return scale.repeat_interleave(group, 1)[:, :columns].reshape(shape)
