"""What a cut leaves of one tensor, and of the channels at one site."""

from __future__ import annotations

import dataclasses
import math
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from condensery.errors import MethodError


@dataclasses.dataclass(frozen=True, eq=False)
class Left:
    """What is left of one tensor.

    :param old: its shape before, ``new`` after.
    :param entries: int64 of shape ``(entries left,)``: the flat entries of the old tensor, in the order of the new one.
    :param places: how many neighbouring numbers each entry stands for, as a kernel's places go together.
    """

    old: tuple[int, ...]
    new: tuple[int, ...]
    entries: Tensor
    places: int = 1

    @cached_property
    def kept(self) -> Tensor:
        """The flat numbers of the old tensor that are left, in the order of the new one, int64."""
        if self.places == 1:
            return self.entries
        return (self.entries[:, None] * self.places + torch.arange(self.places)).flatten()

    @cached_property
    def axes(self) -> tuple[Tensor, ...] | None:
        """The indices left along each of the first axes, int64, where they tell it all: slicing by them is fast."""
        if len(self.old) == 1:
            return (self.entries,)
        if not len(self.entries) or math.prod(self.old[2:]) != self.places:
            return None
        width = self.old[1]
        matrix = self.entries.view(self.new[:2])
        rows, columns = matrix[:, 0] // width, matrix[0] % width
        return (rows, columns) if torch.equal(matrix, rows[:, None] * width + columns) else None

    def zeroed(self, value: Tensor) -> Tensor:
        """Return a tensor of the old shape with zeros where nothing is left."""
        if self.axes is None:
            zeros = torch.zeros_like(value, memory_format=torch.contiguous_format)
            zeros.view(-1).scatter_(0, self.kept, value.flatten().index_select(0, self.kept))
            return zeros

        zeros = value.clone()
        for axis, indices in enumerate(self.axes):
            gone = torch.ones(self.old[axis], dtype=torch.bool).index_fill_(0, indices, False)
            zeros.index_fill_(axis, gone.nonzero().flatten(), 0)
        return zeros

    def take(self, value: Tensor) -> Tensor:
        """Slice a tensor of the old shape, or one that broadcasts against it (``(C, 1, 1, 1)``); scalars stay.

        :raises MethodError: if it does neither, or if the cut takes other columns from each row, as in a grouped
            convolution, so that a broadcast tensor has no slice.
        """
        if value.numel() == 1:
            return value
        if tuple(value.shape) == self.old and self.axes is not None:
            for axis, indices in enumerate(self.axes):
                if not torch.equal(indices, torch.arange(self.old[axis])):
                    value = value.index_select(axis, indices.to(value.device))
            return value
        if tuple(value.shape) == self.old:
            return value.flatten().index_select(0, self.kept.to(value.device)).view(self.new)

        lead = len(self.old) - value.dim()
        shape = (1,) * lead + tuple(value.shape)
        if lead < 0 or any(s not in (1, o) for s, o in zip(shape, self.old, strict=True)):
            raise MethodError(f"a tensor of shape {tuple(value.shape)} doesn't broadcast against {self.old}")

        # Cut the tensor's own indices, spread out to the full shape: along the axes it doesn't have they must agree.
        flat = torch.arange(value.numel()).view(shape).expand(self.old).flatten()[self.kept].view(self.new)
        few = flat[tuple(slice(0, 1) if s == 1 else slice(None) for s in shape)]
        if not torch.equal(few.expand(self.new), flat):
            raise MethodError(f"a tensor of shape {tuple(value.shape)} has no slice: each group loses other columns")
        return value.flatten()[few.flatten().to(value.device)].view(few.shape[lead:])


class Channels(NamedTuple):
    """The channels left at one activation site: how many there were, which stay (int64), and their axis, negative."""

    old: int
    kept: Tensor
    axis: int
