from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
from tests.plugins.pruning.nets import run

from condensery.nets import CONVS
from condensery.run import Stage
from condensery_plugins.pruning.asymptotic_soft_filter_pruning import AsymptoticSoftFilterPruning, bend


def test_the_bend_by_hand() -> None:
    """(1 - x) / (1 - x^8) = 3/4: x = 1/4 leaves 0.7500114, and x = 0.2500114 leaves 0.75."""
    assert bend() == pytest.approx(0.25001144, abs=1e-8)
    assert (1 - bend()) / (1 - bend() ** 8) == pytest.approx(0.75, abs=1e-12)


@pytest.mark.parametrize(("share", "rate"), [(0.0, 0.0), (1 / 8, 0.3), (1 / 4, 0.4 * 0.9375086), (1.0, 0.4)])
def test_the_rate_goes_through_the_papers_points(share: float, rate: float) -> None:
    """At ratio 0.4; at a quarter (1 - x^2) / (1 - x^8) = 0.9374943 / 0.9999847 of it."""
    assert AsymptoticSoftFilterPruning(ratio=0.4).rate(share) == pytest.approx(rate, abs=1e-7)


def test_the_rate_is_an_exponential_that_rises() -> None:
    method = AsymptoticSoftFilterPruning(ratio=0.5)
    rates = [method.rate(s / 20) for s in range(21)]
    assert rates == sorted(rates)
    steps = [b - a for a, b in itertools.pairwise(rates)]
    assert steps[1] / steps[0] == pytest.approx(math.exp(math.log(bend()) * 8 / 20))
    assert steps[9] / steps[8] == pytest.approx(steps[1] / steps[0])


def test_more_filters_go_each_epoch(tmp_path: Path) -> None:
    """64 filters at 0.75, eight epochs: at 1/8 floor(64 * 0.5625) = 36, at 2/8 floor(64 * 0.70313) = 45, then 47, 47
    (64 * 0.73829 = 47.25, 64 * 0.74708 = 47.8), 47, 47, 47, and 48 in the end."""
    counts = []

    def look(stage: Stage) -> None:
        if not stage.dry:
            last = stage.weights(kinds=CONVS)[-1]
            counts.append(int((last.latent.detach().flatten(1) == 0).all(1).sum()))

    methods = [{"asymptotic-soft-filter-pruning": {"ratio": 0.75}}, "look"]
    run(tmp_path, [{"methods": methods, "epochs": 8}], "resnet8", {"after_epoch": look}, max_steps=1)
    assert counts == [36, 45, 47, 47, 47, 47, 47, 48]
