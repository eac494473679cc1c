from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.plugins.pruning.nets import run

from condensery import NotApplicable
from condensery.nets import CONVS
from condensery.run import Stage
from condensery_plugins.pruning.criteria import CRITERIA

RESNET = {"key": "resnet8", "width": 0.5}


FACTORS = {"conv1": [4.0, 1.0, 3.0, 2.0], "conv2": [1.0, 1.5, 2.0, 2.5, 3.0, 3.5]}
"""What all weights of each filter are set to."""


def left(tmp_path: Path, **settings: Any) -> dict[str, list[float]]:
    """Return the factors of the filters that are left of FACTORS, by path."""
    found: dict[str, list[float]] = {}

    def fill(stage: Stage) -> None:
        for weight in stage.weights(kinds=CONVS):
            with torch.no_grad():
                weight.latent.copy_(torch.tensor(FACTORS[weight.path]).view(-1, 1, 1, 1).expand(weight.latent.shape))

    def end(stage: Stage) -> None:
        for weight in stage.weights(kinds=CONVS):
            found[weight.path] = [v for v in weight.value.flatten(1).amax(1).tolist() if v]

    stages = [{"methods": ["look", {"filter-pruning": settings}], "epochs": 0}]
    report = run(tmp_path, stages, "plain-cnn", {"prepare": fill, "end_stage": end})
    share = report["stages"][0]["report"]["filter-pruning.filters_removed_percent"]
    assert share == pytest.approx(100 - 10 * sum(map(len, found.values())))
    return found


def test_local_takes_a_share_of_each_layer(tmp_path: Path) -> None:
    """Half of 4 and of 6: the two and three smallest."""
    assert left(tmp_path, ratio=0.5) == {"conv1": [4.0, 3.0], "conv2": [2.5, 3.0, 3.5]}


def test_global_ranks_all_layers_together(tmp_path: Path) -> None:
    """Filters of 9 weights in conv1, of 36 in conv2: norms 3 to 12 against 6 to 21; four of ten are 3, 6, 6, 9."""
    found = left(tmp_path, ratio=0.4, scope="global")
    assert found == {"conv1": [4.0], "conv2": [1.5, 2.0, 2.5, 3.0, 3.5]}


def test_each_layer_keeps_its_best_filter(tmp_path: Path) -> None:
    assert left(tmp_path, ratio=0.9, scope="global") == {"conv1": [4.0], "conv2": [3.5]}


def whole(stage: Stage) -> list[int]:
    """Return how many filters that aren't zero each convolution has."""
    return [int((w.value.flatten(1) != 0).any(1).sum()) for w in stage.weights(kinds=CONVS)]


@pytest.mark.parametrize("criterion", CRITERIA)
def test_every_criterion_reaches_the_share_and_it_stays(criterion: str, tmp_path: Path) -> None:
    """A quarter of 8, 8, 8, 16, 16, 32 and 32."""

    def look(stage: Stage) -> None:
        assert whole(stage) == [6, 6, 6, 12, 12, 24, 24]

    methods = [{"filter-pruning": {"criterion": criterion, "ratio": 0.25, "samples": 16}}, "look"]
    report = run(tmp_path, [{"methods": methods, "epochs": 1}], RESNET, {"end_stage": look})
    assert report["stages"][0]["report"]["filter-pruning.filters_removed_percent"] == 25.0


def test_in_rounds_the_share_is_of_what_is_still_there(tmp_path: Path) -> None:
    """Of 120 filters a quarter goes, of the 90 that are left a third."""
    there: list[int] = []

    def look(stage: Stage) -> None:
        if not stage.dry:
            there.append(sum(whole(stage)))

    item = {
        "repeat": 2,
        "stages": [{"methods": [{"filter-pruning": {"ratio": [0.25, "=1 / 3"]}}, "look"], "epochs": 0}],
    }
    report = run(tmp_path, [item], RESNET, {"end_stage": look})
    shares = [s["report"]["filter-pruning.filters_removed_percent"] for s in report["stages"]]
    assert shares == pytest.approx([25.0, 100 / 3])
    assert there == [90, 60]


def test_coupled_layers_can_be_left_alone(tmp_path: Path) -> None:
    """Half of the 8, 16 and 32 filters that a block has to itself goes; nothing is held at zero."""

    def look(stage: Stage) -> None:
        assert whole(stage) == [8, 4, 8, 8, 16, 16, 32]

    methods = [{"filter-pruning": {"ratio": 0.5, "coupled": "leave"}}, "look"]
    report = run(tmp_path, [{"methods": methods, "epochs": 0}], RESNET, {"end_stage": look})
    found = report["stages"][0]["report"]
    assert found["filter-pruning.filters_removed_percent"] == found["filter-pruning.filters_cut_percent"] == 50.0


def test_where_all_layers_are_coupled_none_can_be_cut(tmp_path: Path) -> None:
    stages = [{"methods": [{"filter-pruning": {"coupled": "leave"}}]}]
    with pytest.raises(
        NotApplicable, match=r"no convolution can lose filters by itself; \w+: its channels go with those of"
    ):
        run(tmp_path, stages, "mobile-cnn")
