from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.plugins.pruning.nets import run
from torch import Tensor

from condensery.stage import CONVS, Stage
from condensery_plugins.pruning.criteria import CRITERIA

RESNET = {"key": "resnet8", "width": 0.5}


def removed(tmp_path: Path, model: Any, scale: dict[str, list[float]] | None = None, **settings: Any) -> dict[str, Any]:
    """Return which filters of each convolution are zero in the end, after training.

    :param scale: factors of the filters by path, before they are scored.
    """
    found: dict[str, Tensor] = {}

    def prepare(stage: Stage) -> None:
        for weight in stage.weights(kinds=CONVS):
            if scale is not None:
                with torch.no_grad():
                    weight.latent.fill_(1.0)
                    weight.latent.mul_(torch.tensor(scale[weight.path]).view(-1, 1, 1, 1))

    def end(stage: Stage) -> None:
        for weight in stage.weights(kinds=CONVS):
            found[weight.path] = (weight.value.flatten(1) == 0).all(1)

    stages = [{"methods": ["look", {"filter-pruning": settings}], "epochs": 1}]
    report = run(tmp_path, stages, model, {"prepare": prepare, "end_stage": end})
    share = report["stages"][0]["report"]["filter-pruning.filters_removed_percent"]
    total = sum(len(f) for f in found.values())
    assert share == pytest.approx(100 * sum(int(f.sum()) for f in found.values()) / total)
    return {p: f.nonzero().flatten().tolist() for p, f in found.items()}


SCALES = {"conv1": [4.0, 1.0, 3.0, 2.0], "conv2": [1.0, 1.5, 2.0, 2.5, 3.0, 3.5]}


def test_local_takes_a_share_of_each_layer(tmp_path: Path) -> None:
    """Half of 4 and of 6: the two and three smallest."""
    assert removed(tmp_path, "plain-cnn", SCALES, ratio=0.5) == {"conv1": [1, 3], "conv2": [0, 1, 2]}


def test_global_ranks_all_layers_together(tmp_path: Path) -> None:
    """Filters of 9 weights in conv1, of 36 in conv2: norms 3 to 12 against 6 to 21; four of ten are 3, 6, 6, 9."""
    assert removed(tmp_path, "plain-cnn", SCALES, ratio=0.4, scope="global") == {"conv1": [1, 2, 3], "conv2": [0]}


def test_each_layer_keeps_its_best_filter(tmp_path: Path) -> None:
    found = removed(tmp_path, "plain-cnn", SCALES, ratio=0.9, scope="global")
    assert found == {"conv1": [1, 2, 3], "conv2": [0, 1, 2, 3, 4]}


@pytest.mark.parametrize("criterion", CRITERIA)
def test_every_criterion_reaches_the_share(criterion: str, tmp_path: Path) -> None:
    found = removed(tmp_path, RESNET, criterion=criterion, ratio=0.25, samples=16)
    assert [len(g) for g in found.values()] == [2, 2, 2, 4, 4, 8, 8]


def test_in_rounds_the_share_is_of_what_is_still_there(tmp_path: Path) -> None:
    """Of 120 filters a quarter goes, of the 90 that are left a third."""
    left: list[int] = []

    def look(stage: Stage) -> None:
        if not stage.dry:
            left.append(sum(int((w.value.flatten(1) != 0).any(1).sum()) for w in stage.weights(kinds=CONVS)))

    item = {
        "repeat": 2,
        "stages": [{"methods": [{"filter-pruning": {"ratio": [0.25, "=1 / 3"]}}, "look"], "epochs": 0}],
    }
    report = run(tmp_path, [item], RESNET, {"end_stage": look})
    shares = [s["report"]["filter-pruning.filters_removed_percent"] for s in report["stages"]]
    assert shares == pytest.approx([25.0, 100 / 3])
    assert left == [90, 60]
