"""Observers: which range of reals a uniform grid covers, found from the numbers that were seen.

They see tensors ``(..., numbers)``, one for each batch: every index of the leading dimensions is a block with a range
of its own, such as a channel. What they give is the low and the high end of each block, of the leading shape.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from condensery_plugins.quantization.affine import Grid, nudged_grid, signed_ends
from condensery_plugins.quantization.ranges import Range

DECAY = 0.9
"""Share of the old average that a new batch leaves."""
SHARES = 100
"""Ranges that are tried for the smallest error: 1, 0.99, ... 0.01 of the whole one."""
SAMPLED = 2**16
"""Numbers of a block whose error is measured; of more, so many are drawn."""
BINS, STEP = 2048, 8
"""Bins of a histogram of sizes, and how many bins apart the thresholds are that are tried on it."""


class Scheme(NamedTuple):
    """Which grid belongs to a range.

    :param bits: of a code.
    :param symmetric: 0 is in the middle of the codes, or at their lower end where ``signed`` is false; otherwise the
        grid covers the range as it is, moved so that 0 is on it.
    :param signed: what a symmetric grid takes; it then has at least 2 bits, and leaves out the most negative code.
    """

    bits: int
    symmetric: bool = True
    signed: bool = True

    def grid(self, low: Tensor, high: Tensor) -> Grid:
        """Return the grid of a range, or of several of one shape."""
        if self.symmetric and self.signed:
            size = torch.maximum(-low, high).clamp_min(0)
            return nudged_grid(-size, size, *signed_ends(self.bits))
        return nudged_grid(torch.zeros_like(low) if self.symmetric else low, high, 0, 2**self.bits - 1)


Ends = tuple[Tensor, Tensor]
Observe = Callable[[Sequence[Tensor], Scheme], Ends]


def min_max(seen: Sequence[Tensor], scheme: Scheme) -> Ends:
    """Return the smallest and the largest number."""
    ends = [torch.aminmax(x, dim=-1) for x in seen]
    return torch.stack([e.min for e in ends]).amin(0), torch.stack([e.max for e in ends]).amax(0)


def moving_average(seen: Sequence[Tensor], scheme: Scheme) -> Ends:
    """Return moving averages of each batch's smallest and largest number, see :class:`.ranges.Range`.

    A weight is one look, so that its ends are those of :func:`min_max`.
    """
    if len(seen) == 1:
        return min_max(seen, scheme)
    made = Range(scheme.bits, DECAY).to(seen[0].device)
    for x in seen:
        made.observe(x)
    return made.low, made.high


def percentile(seen: Sequence[Tensor], scheme: Scheme, percent: float) -> Ends:
    """Return the numbers that ``100 - percent`` and ``percent`` of all lie below; between two of them, linearly."""
    x = torch.cat(list(seen), -1)
    low, high = np.quantile(x.detach().cpu().numpy(), [1 - percent / 100, percent / 100], axis=-1)
    return torch.as_tensor(low).to(x), torch.as_tensor(high).to(x)


def mean_square(seen: Sequence[Tensor], scheme: Scheme) -> Ends:
    """Return the range with the smallest mean square of what quantization changes, both ends cut by the same factor."""
    low, high = min_max(seen, scheme)
    x = _drawn(torch.cat(list(seen), -1))

    best, factor = torch.full_like(low, torch.inf, dtype=torch.float64), torch.ones_like(low)
    for number in range(SHARES, 0, -1):
        share = number / SHARES
        grid = scheme.grid(share * low[..., None], share * high[..., None])
        error = (grid.values(grid.codes(x)) - x).square().mean(-1, dtype=torch.float64)

        better = error < best
        best, factor = torch.where(better, error, best), torch.where(better, share, factor)
    return factor * low, factor * high


def _drawn(x: Tensor) -> Tensor:
    """Return all numbers of each block, ``(..., numbers)``, or :data:`SAMPLED` of them: always the same ones."""
    if x.size(-1) <= SAMPLED:
        return x
    generator = torch.Generator().manual_seed(0)
    return x[..., torch.randint(x.size(-1), (SAMPLED,), generator=generator).to(x.device)]


def entropy(seen: Sequence[Tensor], scheme: Scheme) -> Ends:
    """Return the range, cut where the sizes of the numbers lose least information: TensorRT's calibration.

    Migacz: "8-bit Inference with TensorRT", GTC 2017. On a histogram of the sizes, for each threshold the divergence
    KL(P || Q) in nats is found: P is the histogram up to it, with what lies above in its last bin; Q the same bins
    merged into as many as there are levels and spread out again over those that aren't empty. Zeros don't count, as
    they stay what they are on every grid.
    """
    low, high = min_max(seen, scheme)
    sizes = torch.cat(list(seen), -1).abs()
    top = torch.maximum(-low, high)
    counts = _histogram(sizes, top)

    # Whether a side has half of the levels is the grid's to say, so that a row's range doesn't depend on the others'.
    halved = scheme.signed if scheme.symmetric else bool((low < 0).any())
    levels = min(BINS, 2 ** (scheme.bits - 1 if halved else scheme.bits))
    candidates = [*range(levels, BINS, STEP), BINS]
    divergences = torch.stack([divergence(counts, bins, levels) for bins in candidates], -1)
    bins = torch.tensor(candidates, device=low.device)[divergences.argmin(-1)]

    threshold = top * ((bins + 0.5) / BINS).clamp_max(1).to(top)
    return torch.maximum(low, -threshold), torch.minimum(high, threshold)


def _histogram(sizes: Tensor, top: Tensor) -> Tensor:
    """Return how many sizes but 0 lie in each of :data:`BINS` bins from 0 to ``top``: float64, ``(..., bins)``."""
    places = (sizes / top[..., None].clamp_min(torch.finfo(top.dtype).tiny) * BINS).long().clamp_max(BINS - 1)
    counts = torch.zeros(*top.shape, BINS, dtype=torch.float64, device=top.device)
    return counts.scatter_add(-1, places, (sizes > 0).double())


def divergence(counts: Tensor, bins: int, levels: int) -> Tensor:
    """Return KL(P || Q) of a histogram that is cut behind some bins, see :func:`entropy`: of the leading shape.

    :param counts: float64, ``(..., all bins)``.
    :param bins: that are left.
    :param levels: that they are merged into.
    """
    left = counts[..., :bins]
    p = left.clone()
    p[..., -1] += counts[..., bins:].sum(-1)

    filled = (left > 0).double()
    level = torch.arange(bins, device=counts.device) * levels // bins
    merged = counts.new_zeros(*counts.shape[:-1], levels)
    sums, places = merged.index_add(-1, level, left), merged.index_add(-1, level, filled)
    q = (sums / places.clamp_min(1))[..., level] * filled

    # An empty histogram stays empty; a bin of P that Q doesn't have is infinitely far.
    p, q = (part / part.sum(-1, keepdim=True).clamp_min(1) for part in (p, q))
    return (torch.xlogy(p, p) - torch.xlogy(p, q)).sum(-1)


Observer = Literal["min-max", "moving-average", "percentile", "mse", "entropy"]


def observer(name: Observer, percent: float) -> Observe:
    """Return an observer by its name.

    :param percent: of ``percentile`` alone.
    """
    known: dict[str, Observe] = {
        "min-max": min_max,
        "moving-average": moving_average,
        "percentile": partial(percentile, percent=percent),
        "mse": mean_square,
        "entropy": entropy,
    }
    return known[name]
