"""Key points of digits: where they lie, the heat maps that stand for them, and how answers are judged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from condensery import Batch
from condensery_plugins.models import heat_maps
from condensery_plugins.tasks.keypoints import DigitsKeypoints, MnistKeypoints, hills, key_points, peaks

PICTURE = [
    [0, 0, 0, 0, 0, 0],
    [0, 0, 9, 9, 0, 0],
    [0, 9, 4, 0, 0, 0],
    [0, 9, 0, 9, 9, 0],
]
"""Its 4 isn't ink."""


def test_points_by_hand() -> None:
    """Highest: columns 2 and 3 of row 1. Lowest: columns 1, 3 and 4 of row 3. Leftmost: rows 2 and 3 of column 1."""
    (points,) = key_points(torch.tensor([PICTURE], dtype=torch.uint8)).tolist()
    assert points[0] == [2.5, 1]
    assert points[1] == pytest.approx([8 / 3, 3])
    assert points[2] == [1, 2.5]
    assert points[3] == [4, 3]
    columns, rows = [2, 3, 1, 1, 3, 4], [1, 1, 2, 3, 3, 3]
    assert points[4] == pytest.approx([sum(columns) / 6, sum(rows) / 6])


def test_a_hill_has_its_top_at_the_point() -> None:
    """A map of half the size: pixel 4.5 is position 2, and 1 farther down it is exp(-1/2)."""
    maps = hills(torch.tensor([[[4.5, 6.5]]]), torch.zeros(1, 1, 8, 8), 16, 16)
    assert float(maps[0, 0, 3, 2]) == pytest.approx(1)
    assert float(maps[0, 0, 4, 2]) == pytest.approx(float(torch.tensor(-0.5).exp()))
    assert float(maps[0, 0, 4, 3]) == pytest.approx(float(torch.tensor(-1.0).exp()))


def test_peaks_lie_a_quarter_towards_the_higher_neighbour() -> None:
    """Position 2 of a row, whose right neighbour is the higher one: 2.25, which is pixel 5."""
    maps = torch.zeros(1, 1, 4, 4)
    maps[0, 0, 1] = torch.tensor([0.0, 0.3, 1, 0.5])
    assert peaks(maps, 8, 8).tolist() == [[[5.0, 2.5]]]
    corner = torch.zeros(1, 1, 4, 4)
    corner[0, 0, 0, 0] = 1
    assert peaks(corner, 8, 8).tolist() == [[[0.5, 0.5]]], "at an edge there is nothing to compare with"


def test_hills_around_the_points_are_a_right_answer() -> None:
    task = DigitsKeypoints()
    batch = next(task.batches("test", batch_size=50))
    assert batch.inputs.shape == (50, 1, 16, 16)
    assert batch.labels.shape == (50, 5, 2)
    assert len(batch.labels[:, 0].unique(dim=0)) > 5

    meter = task.meter()
    meter.update(hills(batch.labels, torch.zeros(50, 5, 8, 8), 16, 16), batch)
    found = meter.compute()
    assert found["pck"] > 90
    assert found["distance"] < 1
    assert found["loss"] == 0


def test_correct_key_points_by_hand() -> None:
    """The box is 11 pixels high, so that 1.1 pixels are near: two of the five answers are."""
    task = DigitsKeypoints()
    truths = torch.tensor([[[4.5, 0.5], [4.5, 10.5], [0.5, 4.5], [8.5, 4.5], [4.5, 4.5]]])
    far = torch.tensor([0.0, 0.0, 2.0, 4.0, -2.0])
    answers = truths + torch.stack([far, torch.zeros(5)], 1)
    meter = task.meter()
    meter.update(hills(answers, torch.zeros(1, 5, 8, 8), 16, 16), Batch(torch.zeros(1), truths))
    assert meter.compute()["pck"] == pytest.approx(40)
    assert meter.compute()["distance"] == pytest.approx(8 / 5, abs=1e-4)


def test_the_net_halves_the_image_and_has_a_map_for_each_point() -> None:
    task = DigitsKeypoints()
    net = heat_maps.build(task.facts, "heat-maps", width=0.5)
    assert net(task.example(3)).shape == (3, 5, 8, 8)
    # Two stages of two convolutions, with their norms, the transposed one, and the last layer's biases.
    weights = 9 * (1 * 8 + 8 * 8 + 8 * 16 + 16 * 16) + 16 * 16 * 16 + 16 * 5
    assert sum(p.numel() for p in net.parameters()) == weights + 2 * (8 + 8 + 16 + 16 + 16) + 5


def test_mnists_points_lie_in_its_images(need_data: Callable[[str], Path]) -> None:
    need_data("mnist")
    task = MnistKeypoints()
    inputs, points = task.split("test")
    assert points.shape == (10_000, 5, 2)
    assert 0 <= float(points.min()) < float(points.max()) <= 27
    image = inputs["images"][0, 0]

    def brightest(where: Tensor) -> int:
        return int(image[int(where[1])].max())

    assert all(brightest(points[0, number]) > 127 for number in (0, 1))
