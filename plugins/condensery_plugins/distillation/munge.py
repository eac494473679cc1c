"""Pools of inputs without labels, made from some real ones: MUNGE, independent draws, or the real ones as they are.

Bucila, Caruana, Niculescu-Mizil: "Model Compression", KDD 2006. Examples are rows of attributes; all continuous ones
are on a scale from 0 to 1 while they are made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def munge(data: Tensor, nominal: Tensor, swap: float, spread: float, draw: torch.Generator) -> Tensor:
    """Return one pass of MUNGE: each row in turn trades attributes with its nearest neighbour.

    With probability ``swap`` and for each attribute alone, the two values of a nominal one change places; of a
    continuous one both are drawn anew, each around the other's old value, with the standard deviation
    ``|a - b| / spread``. Rows are changed in place, so that later ones meet what earlier ones have become.

    :param data: ``(rows, attributes)`` of 0 to 1; not changed.
    :param nominal: which attributes are nominal, ``(attributes,)`` of bool.
    :param spread: the larger, the closer to the data.
    """
    rows = data.clone()
    if len(rows) < 2:
        return rows

    for one in range(len(rows)):
        other = _nearest(rows, one, nominal)
        mine, theirs = rows[one].clone(), rows[other].clone()
        trades = torch.rand(mine.shape, generator=draw) < swap

        deviation = (mine - theirs).abs() / spread
        noise = torch.randn((2, len(mine)), generator=draw).to(mine) * deviation * ~nominal
        rows[one] = torch.where(trades, theirs + noise[0], mine)
        rows[other] = torch.where(trades, mine + noise[1], theirs)
    return rows


def _nearest(rows: Tensor, one: int, nominal: Tensor) -> int:
    """Return the row nearest to one: squared distances, and 1 for each nominal attribute that differs."""
    apart = rows - rows[one]
    far = torch.where(nominal, (apart != 0).to(apart), apart.square()).sum(1)
    far[one] = torch.inf
    return int(far.argmin())


def drawn_alone(data: Tensor, draw: torch.Generator) -> Tensor:
    """Return as many rows, each attribute of each drawn by itself from its values in the data."""
    chosen = torch.randint(0, len(data), data.shape, generator=draw)
    return data.gather(0, chosen)


def pool_of(data: Tensor, size: int, make: Callable[[Tensor], Tensor], nominal: Sequence[int]) -> Tensor:
    """Return a pool of exactly ``size`` examples, made by as many passes over the data as it takes.

    :param data: real inputs, ``(examples, ...)`` of floats.
    :param make: returns new rows for rows of attributes on a scale of 0 to 1; nominal ones keep their own scale.
    :param nominal: numbers of the nominal attributes, counted over all of an example's.
    """
    flat = data.flatten(1)
    low, high = flat.amin(0), flat.amax(0)
    width = torch.where(high > low, high - low, 1.0)
    low[list(nominal)], width[list(nominal)] = 0.0, 1.0

    scaled = (flat - low) / width
    passes = [make(scaled) for _ in range(-(-size // len(data)))]
    return (torch.cat(passes)[:size] * width + low).view(size, *data.shape[1:])
