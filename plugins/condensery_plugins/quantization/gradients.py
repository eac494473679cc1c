"""Straight-through estimators: which gradient a rounded tensor hands on to the one that it was rounded from."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from condensery import straight_through

Estimator = Literal["clip", "identity"]
"""What methods offer as a setting: ``clip`` cuts the gradient outside the range, ``identity`` lets all of it pass."""


def passing(value: Tensor, x: Tensor, inside: Tensor) -> Tensor:
    """Return ``value`` exactly, with the gradient of ``x`` where ``inside`` says so, and 0 elsewhere.

    Not by ``x.clamp(low, high)``: between tensors its gradient at an end is one half.

    :param value: of the shape of ``x``.
    :param inside: bool, of that shape.
    """
    return straight_through(value, torch.where(inside, x, value.detach()))


def clipped(value: Tensor, x: Tensor, low: float | Tensor = -1.0, high: float | Tensor = 1.0) -> Tensor:
    """Return ``value`` exactly, with the gradient of ``x`` between two ends, which count as inside, and 0 elsewhere.

    With the default ends it is the estimator of a sign by a hard tanh, 1 where ``|x| <= 1``: Courbariaux, Hubara,
    Soudry, El-Yaniv, Bengio: "Binarized Neural Networks", 2016, section 1.3.

    :param low: a number, or a tensor that broadcasts against ``x``; ``high`` likewise.
    """
    seen = x.detach()
    return passing(value, x, (seen >= low) & (seen <= high))


def estimated(
    value: Tensor, x: Tensor, estimator: Estimator, low: float | Tensor = -1.0, high: float | Tensor = 1.0
) -> Tensor:
    """Return ``value`` exactly, with the gradient that an estimator gives ``x``.

    :param low: end of the range that ``clip`` cuts at, a number or broadcasting against ``x``; ``high`` the other one.
    """
    return straight_through(value, x) if estimator == "identity" else clipped(value, x, low, high)
