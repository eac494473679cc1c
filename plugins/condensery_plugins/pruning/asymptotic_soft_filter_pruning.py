from __future__ import annotations

import functools
import math
from dataclasses import dataclass

from condensery_plugins.pruning.soft_filter_pruning import SoftFilterPruning

BEND = (1 / 8, 3 / 4)
"""At an eighth of the epochs three quarters of the final rate are reached."""


@dataclass(eq=False, kw_only=True)
class AsymptoticSoftFilterPruning(SoftFilterPruning):
    """Soft filter pruning at a rate that grows from zero: few filters first, more and more of them during training.

    He, Dong, Kang, Fu, Yan, Yang: "Asymptotic Soft Filter Pruning for Deep Convolutional Neural Networks", IEEE
    Transactions on Cybernetics 2020; the other reading of [21]. The rate after a share s of the epochs is
    a * exp(-k * s) + b, through (0, 0), (1/8, 3/4 * ratio) and (1, ratio).
    """

    key = "asymptotic-soft-filter-pruning"

    def rate(self, share: float) -> float:
        """Return the rate after a share of the stage's epochs, 0 to 1."""
        speed = -math.log(bend()) / BEND[0]
        return self.ratio * math.expm1(-speed * share) / math.expm1(-speed)


@functools.cache
def bend() -> float:
    """Return x = exp(-k / 8) with (1 - x) / (1 - x^8) = 3/4, by bisection.

    From a + b = 0 at the start follows rate(s) = b * (1 - exp(-k * s)); the two other points leave this equation.
    """
    low, high = 0.0, 0.5  # the left side falls from 1 to 0.502 there
    for _ in range(60):
        middle = (low + high) / 2
        reached = (1 - middle) / (1 - math.pow(middle, 1 / BEND[0]))
        low, high = (middle, high) if reached > BEND[1] else (low, middle)
    return (low + high) / 2
