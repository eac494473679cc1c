from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from condensery_plugins.quantization.affine import fake_quantize
from condensery_plugins.quantization.observers import (
    BINS,
    STEP,
    Scheme,
    divergence,
    entropy,
    mean_square,
    min_max,
    moving_average,
    observer,
    percentile,
)


def batches(*values: list[float]) -> list[Tensor]:
    return [torch.tensor(v, dtype=torch.float64) for v in values]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_grids_by_hand() -> None:
    """Three bits. Symmetric: -3..3 over the larger end; unsigned: 0..7; affine: 0..7 over the range, 0 on the grid."""
    low, high = torch.tensor(-1.5), torch.tensor(6.0)
    grid = Scheme(3).grid(low, high)
    assert (float(grid.scale), float(grid.zero), grid.low, grid.high) == (2.0, 0.0, -3, 3)
    grid = Scheme(3, signed=False).grid(torch.tensor(0.5), torch.tensor(7.0))
    assert (float(grid.scale), float(grid.zero), grid.low, grid.high) == (1.0, 0.0, 0, 7)
    grid = Scheme(3, symmetric=False).grid(torch.tensor(-1.0), torch.tensor(2.5))
    assert (float(grid.scale), float(grid.zero), grid.low, grid.high) == (0.5, 2.0, 0, 7)


@pytest.mark.parametrize("symmetric", [True, False])
def test_zeros_and_constants_stay_what_they_are(symmetric: bool) -> None:
    for name in ("min-max", "moving-average", "percentile", "mse", "entropy"):
        for value in (0.0, 3.0, -3.0):
            x = torch.full((40,), value)
            scheme = Scheme(2, symmetric)
            low, high = observer(name, 99.0)([x], scheme)
            torch.testing.assert_close(fake_quantize(x, scheme.grid(low, high)), x, rtol=1e-6, atol=0, msg=name)


def test_min_max_and_moving_average_by_hand() -> None:
    """Of three batches the first ten count alike: lows -1, -3, -2 and highs 4, 8, 3."""
    seen = batches([-1, 0, 4], [-3, 8, 1], [-2, 3, 3])
    assert [float(end) for end in min_max(seen, Scheme(8))] == [-3, 8]
    assert [float(end) for end in moving_average(seen, Scheme(8))] == pytest.approx([-2, 5])


def test_each_block_has_its_own_range() -> None:
    seen = [torch.tensor([[-1.0, 2.0], [0.0, 5.0]]), torch.tensor([[-4.0, 1.0], [7.0, 6.0]])]
    low, high = min_max(seen, Scheme(8))
    assert (low.tolist(), high.tolist()) == ([-4, 0], [2, 7])


def test_percentiles_are_those_of_scipy() -> None:
    x = normal(3, 1000)
    low, high = percentile([x[:, :300], x[:, 300:]], Scheme(8), 99.0)
    for block in range(3):
        wanted = [stats.scoreatpercentile(x[block].numpy(), p) for p in (1.0, 99.0)]
        assert [float(low[block]), float(high[block])] == pytest.approx(wanted)


def test_a_percentile_by_hand() -> None:
    """Of 0, 1, ... 10, one in ten lies below 1 and one in ten above 9."""
    low, high = percentile([torch.arange(11.0)], Scheme(8), 90.0)
    assert (float(low), float(high)) == pytest.approx((1, 9))


def test_the_smallest_error_is_that_of_a_search_in_numpy() -> None:
    """Two bits signed: -t, 0, t. Each candidate's error is worked out anew, without the project's rounding."""
    x = normal(5000).numpy()
    top = np.abs(x).max()
    errors = {t: np.mean((np.clip(np.round(x / t), -1, 1) * t - x) ** 2) for t in top * np.arange(1, 101) / 100}
    best = min(errors, key=lambda t: errors[t])

    low, high = mean_square([torch.from_numpy(x)], Scheme(2))
    assert max(-float(low), float(high)) == pytest.approx(best)
    assert best < top / 2  # the whole range is far from the best


def test_the_smallest_error_for_normal_numbers_is_the_known_one() -> None:
    """The best uniform quantizer with three levels of normal numbers has the step 1.2240 (Max, 1960, table II)."""
    low, high = mean_square([normal(60_000)], Scheme(2))
    assert max(-float(low), float(high)) == pytest.approx(1.224, abs=0.03)


def test_blocks_of_many_numbers_are_sampled_and_cover_them() -> None:
    x = normal(2, 100_000)
    (low, high), (drawn_low, drawn_high) = mean_square([x[:, :60_000]], Scheme(4)), mean_square([x], Scheme(4))
    sizes, drawn = torch.maximum(-low, high), torch.maximum(-drawn_low, drawn_high)
    torch.testing.assert_close(drawn, sizes, rtol=0.06, atol=0)
    assert torch.equal(mean_square([x], Scheme(4))[0], drawn_low)  # the same ones each time


def test_a_divergence_by_hand() -> None:
    """Bins 4, 0, 2, 2 | 2 cut behind four, two levels. P = 4, 0, 2, 4 of 10; Q = 4, 0, 2, 2 of 8."""
    counts = torch.tensor([4.0, 0.0, 2.0, 2.0, 2.0], dtype=torch.float64)
    wanted = 0.4 * np.log(0.4 / 0.5) + 0.2 * np.log(0.2 / 0.25) + 0.4 * np.log(0.4 / 0.25)
    assert float(divergence(counts, 4, 2)) == pytest.approx(wanted)
    # What was cut lies in a bin that Q doesn't have.
    assert float(divergence(torch.tensor([4.0, 0.0, 2.0], dtype=torch.float64), 2, 2)) == np.inf


@pytest.mark.parametrize("bits", [8, 4])
def test_the_entropy_is_that_of_scipy_on_numpys_histogram(bits: int) -> None:
    """TensorRT's pseudo-code, level by level, on numbers with a long tail."""
    x = normal(20_000).pow(3).numpy()
    top, levels = np.abs(x).max(), 2 ** (bits - 1)
    counts, _ = np.histogram(np.abs(x[x != 0]), bins=BINS, range=(0, top))

    found = {}
    for bins in [*range(levels, BINS, STEP), BINS]:
        p = counts[:bins].astype(float)
        p[-1] += counts[bins:].sum()
        q = np.zeros(bins)
        for level in range(levels):
            inside = np.nonzero((np.arange(bins) * levels // bins) == level)[0]
            filled = inside[counts[inside] > 0]
            if len(filled):
                q[filled] = counts[inside].sum() / len(filled)
        found[bins] = stats.entropy(p, q)
    best = min(found, key=lambda bins: found[bins])

    low, high = entropy([torch.from_numpy(x[:7000]), torch.from_numpy(x[7000:])], Scheme(bits))
    assert best < BINS / 2  # the tail is cut
    assert max(-float(low), float(high)) == pytest.approx((best + 0.5) / BINS * top)
