from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

from torch import Tensor

from condensery.nets import Branch, Coding, Dense


class Moved(Branch):
    """A tensor as rows along one of its dimensions, so that codecs of neighbours in a row see those of that dimension.

    :param axis: the dimension whose entries become neighbours; all others count rows, in their order.
    """

    key = "moved"
    main = "rows"

    def __init__(self, axis: int) -> None:
        self.axis = axis

    def encode(self, values: Tensor) -> dict[str, Tensor]:
        """Return the rows, ``(rows, size of the dimension)``."""
        return {self.main: rows_along(values, self.axis)}

    def decode(self, streams: Mapping[str, Tensor], shape: Sequence[int]) -> Tensor:
        """Return the tensor in its own order."""
        return from_rows(streams[self.main], shape, self.axis)

    def config(self) -> dict[str, Any]:
        """Return the dimension."""
        return {"axis": self.axis}

    def parts(self) -> dict[str, Coding]:
        """Return the rows as they are."""
        return {self.main: Coding(Dense())}


def rows_along(values: Tensor, axis: int) -> Tensor:
    """Return a tensor as rows along one dimension, ``(rows, size of the dimension)``."""
    others = values.numel() // values.shape[axis] if values.numel() else 0
    return values.movedim(axis, -1).reshape(others, values.shape[axis])


def from_rows(rows: Tensor, shape: Sequence[int], axis: int) -> Tensor:
    """Undo :func:`rows_along`: return the tensor of a given shape.

    :raises ValueError: if it has no such dimension, or another number of entries.
    """
    if not 0 <= axis < len(shape) or prod(shape) != rows.numel():
        raise ValueError(f"{Moved.key}: rows {tuple(rows.shape)} along dimension {axis} of {tuple(shape)}")
    others = [size for dim, size in enumerate(shape) if dim != axis]
    return rows.reshape(*others, shape[axis]).movedim(-1, axis).contiguous()
