from __future__ import annotations

import pytest
import torch
from tests.plugins.pruning.stages import Given, stage_of
from torch import Tensor, nn

from condensery import Stage
from condensery_plugins.pruning.passages import Left, Passage, keep_alive, passages


def stage_for(first: list[list[float]], second: list[list[float]]) -> Stage:
    """Return a stage of two linear layers behind each other, ``0`` and ``1``, with given weights."""
    layers = [nn.Linear(len(rows[0]), len(rows), bias=False) for rows in (first, second)]
    for layer, rows in zip(layers, (first, second), strict=True):
        layer.weight.data = torch.tensor(rows)
    return stage_of(nn.Sequential(*layers), Given(torch.ones(8, len(first[0])), torch.zeros(8, dtype=torch.int64)))


def used_in(stage: Stage) -> dict[str, Tensor]:
    return {w.path: w.latent.detach() != 0 for w in stage.weights()}


def only_way(stage: Stage) -> Passage:
    (way,) = passages(stage, used_in(stage))
    return way


def test_which_channels_are_written_and_read() -> None:
    """Neuron 0 has no weights, neuron 3 is read by nobody, 1 and 2 pass."""
    stage = stage_for([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [1.0, 0.0]], [[1.0, 1.0, 1.0, 0.0]])
    way, used = only_way(stage), used_in(stage)
    assert way.written(used).tolist() == [False, True, True, True]
    assert way.read(used).tolist() == [True, True, True, False]
    assert way.dead(used).tolist() == [True, False, False, True]


def test_nothing_passes_by_halves_where_all_layers_use_all_channels() -> None:
    stage = stage_for([[1.0, 0.0], [0.0, 1.0]], [[1.0, 1.0]])
    assert passages(stage, used_in(stage)) == []


def test_a_cut_leaves_no_layer_without_weights() -> None:
    """Neuron 1 is written, and 2 read: no channel passes; of 0 there is nothing."""
    stage = stage_for([[0.0], [1.0], [0.0]], [[0.0, 0.0, 1.0]])
    assert only_way(stage).dead(used_in(stage)).tolist() == [True, False, False]


def test_which_weights_are_between_neighbours() -> None:
    """Of the first layer those of neurons that are read, 1 and 2; of the second those that read 0 and 2."""
    stage = stage_for([[1.0], [0.0], [1.0]], [[0.0, 1.0, 1.0]])
    way, used = only_way(stage), used_in(stage)
    first, second = stage.weights()
    assert way.open_to(first, used).flatten().tolist() == [False, True, True]
    assert way.open_to(second, used).flatten().tolist() == [True, False, True]


def test_flattened_maps_arrive_at_several_inputs() -> None:
    """Two maps of 2 x 1: the linear layer reads them by inputs 0, 1 and 2, 3."""
    net = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.Flatten(), nn.Linear(4, 2))
    net[0].weight.data = torch.tensor([1.0, 0.0]).view(2, 1, 1, 1)
    stage = stage_of(net, Given(torch.ones(8, 1, 2, 1), torch.zeros(8, dtype=torch.int64)))
    assert only_way(stage).arrives["2"].tolist() == [0, 0, 1, 1]


def left_of(stage: Stage, threshold: float) -> dict[str, Left]:
    return {w.path: Left(w, ["filter", "channel"], threshold) for w in stage.weights()}


def test_where_the_largest_groups_cross_there_may_be_nothing() -> None:
    """Row 0 is the largest, 5 against 4, and column 0, sqrt(32) against 5; they cross at 0. The 5 brings column 1."""
    stage = stage_for([[0.0, 5.0], [4.0, 0.0], [4.0, 0.0]], [[1.0, 1.0, 1.0]])
    left = left_of(stage, threshold=10.0)
    assert left["0"].kept.tolist() == [[True, False], [False, False], [False, False]]
    assert not left["0"].used.any()
    keep_alive(stage, left, [])
    assert left["0"].kept.tolist() == [[True, True], [False, False], [False, False]]
    assert left["0"].used.tolist() == [[False, True], [False, False], [False, False]]


@pytest.mark.parametrize("scale", [1.0, 1e-12])
def test_a_writer_keeps_what_is_read(scale: float) -> None:
    """Of neurons 3, 2 and 1 the first is the largest, but the second layer keeps column 2; however small it is."""
    stage = stage_for([[3.0], [2.0], [scale]], [[1.0, 2.0, 3.0]])
    left = left_of(stage, threshold=10.0)
    ways = passages(stage, {path: layer.used for path, layer in left.items()})
    keep_alive(stage, left, ways)
    assert left["0"].kept.flatten().tolist() == [True, False, True]
    assert left["1"].kept.flatten().tolist() == [False, False, True]
    used = {path: layer.used for path, layer in left.items()}
    assert ways[0].dead(used).tolist() == [True, True, False]


def test_what_is_alive_stays_as_it_is() -> None:
    """Groups above 2.5: rows 0 and 1, and column 0, which reads one of them."""
    stage = stage_for([[3.0], [4.0], [2.0]], [[3.0, 1.0, 1.0]])
    left = left_of(stage, threshold=2.5)
    before = {path: layer.kept for path, layer in left.items()}
    assert before["0"].flatten().tolist() == [True, True, False]
    assert before["1"].flatten().tolist() == [True, False, False]
    keep_alive(stage, left, passages(stage, {path: layer.used for path, layer in left.items()}))
    assert all(torch.equal(layer.kept, before[path]) for path, layer in left.items())


def test_a_layer_without_weights_stays_without() -> None:
    stage = stage_for([[0.0], [0.0]], [[1.0, 2.0]])
    left = left_of(stage, threshold=0.5)
    keep_alive(stage, left, passages(stage, {path: layer.used for path, layer in left.items()}))
    assert not left["0"].used.any()
    assert left["1"].kept.flatten().tolist() == [True, True]
