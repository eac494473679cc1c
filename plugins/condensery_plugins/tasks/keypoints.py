"""Key points of handwritten digits: a stand-in for human poses, of which no data set is at hand."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from condensery import Batch
from condensery.tasks import Metric, Split
from condensery_plugins.tasks.digits import Digits
from condensery_plugins.tasks.images import ImageTask
from condensery_plugins.tasks.mnist import Mnist
from condensery_plugins.tasks.tensors import Stored

POINTS = 5
"""The highest, lowest, leftmost and rightmost point of the ink, and its middle."""
SIGMA = 1.0
"""Width of the hill in a heat map around a key point, in positions of the map."""
NEAR = 0.1
"""How near an answer must be to be right, as a share of the longer side of the ink's bounding box."""


class Keypoints(ImageTask):
    """Find five points of a digit's ink: a stand-in for a human pose, and neither COCO nor MPII.

    The points follow from each image: where its ink is highest, lowest, leftmost and rightmost (the middle of these
    pixels), and the mean of all its pixels. Ink is what is at least half as bright as the image's brightest pixel. All
    points are visible, and there is one digit in an image.

    A net gives a heat map for each point, ``(batch, points, height, width)`` of any size. Its loss is the mean squared
    distance from hills around the points; an answer is the highest position, moved by a quarter towards its higher
    neighbours. Quality is PCK, the percentage of correct key points: those that are found no farther away than a tenth
    of the longer side of the ink's bounding box.

    Labels are pixels, ``(batch, points, 2)``: column and row, the middle of the first pixel at 0.

    :param source: has the images; its classes aren't used.
    """

    metrics = (
        Metric("pck", "%", True),
        Metric("distance", "pixels", False),
        Metric("loss", "squared error", False),
    )
    default_model = "heat-maps"
    base = {
        "epochs": 10,
        "batch_size": 64,
        "optimizer": {"name": "adam", "lr": 0.001},
        "schedule": {"name": "cosine"},
    }
    holds_out: ClassVar[bool] = True

    def __init__(self, source: ImageTask) -> None:
        super().__init__(dataclasses.replace(source.facts, outputs=POINTS), source.mean, source.std)
        self.source, self.sizes = source, source.sizes

    def load(self, split: Split) -> Stored:
        """Read the images, and find their points."""
        stored, _ = self.source.load(split)
        return stored, key_points(stored["images"][:, 0])

    def inputs(self, stored: Mapping[str, Tensor], index: Tensor, noise: Mapping[str, Tensor]) -> Tensor:
        """Return normalised images, ``(batch, channels, height, width)`` of float32."""
        return self.source.inputs(stored, index, noise)

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor | None:
        """Return the squared distance of the heat maps from hills, the mean over all their numbers."""
        if batch.labels is None:
            return None
        return nn.functional.mse_loss(outputs, hills(batch.labels, outputs, self.facts.height, self.facts.width))

    def weight(self, batch: Batch) -> float:
        """Count examples."""
        return batch.size

    def meter(self) -> Nearness:
        """Return PCK in percent, the mean distance in pixels, and the loss."""
        return Nearness(self)

    def describe(self) -> dict[str, Any]:
        """Return key and settings."""
        return {"key": self.key, "source": self.source.describe()}


class DigitsKeypoints(Keypoints):
    """Key points of the embedded digits, enlarged; see :class:`Keypoints`.

    :param size: side of the image in pixels.
    """

    key = "digits-keypoints"

    def __init__(self, size: int = 16) -> None:
        super().__init__(Digits(size))


class MnistKeypoints(Keypoints):
    """Key points of MNIST's digits; see :class:`Keypoints`."""

    key = "mnist-keypoints"
    data_set = Mnist.data_set

    def __init__(self) -> None:
        super().__init__(Mnist())


class Nearness:
    """The share of key points that are found, in percent, their mean distance in pixels, and the loss."""

    def __init__(self, task: Keypoints) -> None:
        self.task = task
        self.points, self.right, self.distance, self.loss = 0, 0, 0.0, 0.0

    def update(self, outputs: Tensor, batch: Batch) -> None:
        """Take one batch."""
        truths = batch.labels
        found = peaks(outputs, self.task.facts.height, self.task.facts.width)
        distances = torch.linalg.vector_norm(found - truths, dim=2)
        longer = (truths.amax(1) - truths.amin(1)).amax(1, keepdim=True) + 1

        self.points += distances.numel()
        self.right += int((distances <= NEAR * longer).sum())
        self.distance += float(distances.sum())
        self.loss += float(self.task.loss(outputs, batch)) * distances.numel()  # type: ignore[arg-type]

    def compute(self) -> dict[str, float]:
        """Return ``pck``, ``distance`` and ``loss``."""
        points = max(1, self.points)
        return {"pck": 100 * self.right / points, "distance": self.distance / points, "loss": self.loss / points}


def key_points(images: Tensor) -> Tensor:
    """Return the points of some images' ink, ``(images, 5, 2)``: columns and rows.

    :param images: ``(images, height, width)``.
    """
    images = images.float()
    ink = (images >= images.amax((1, 2), keepdim=True) / 2).float()
    down, right = ink.transpose(1, 2), ink
    rows, columns = _edges(right), _edges(down).flip(2)

    positions = torch.cartesian_prod(torch.arange(ink.shape[1]), torch.arange(ink.shape[2])).float()
    middle = (ink.flatten(1) @ positions / ink.sum((1, 2))[:, None]).flip(1)
    return torch.cat([rows, columns, middle[:, None]], 1)


def _edges(ink: Tensor) -> Tensor:
    """Return the middle of the first and the last line with ink, ``(images, 2, 2)``: place in it, and its number.

    :param ink: ``(images, lines, places)``.
    """
    lines = ink.shape[1]
    inked = ink.amax(2)
    numbers = torch.stack([inked.argmax(1), lines - 1 - inked.flip(1).argmax(1)], 1)

    each = torch.arange(len(ink))[:, None]
    line = ink[each, numbers]
    places = (line * torch.arange(ink.shape[2])).sum(2) / line.sum(2)
    return torch.stack([places, numbers.float()], 2)


def hills(points: Tensor, like: Tensor, height: int, width: int) -> Tensor:
    """Return heat maps with a hill of height 1 around each point, as large as ``like``.

    :param points: pixels, ``(batch, points, 2)``.
    :param like: heat maps, ``(batch, points, map height, map width)``.
    :param height: of the image, in pixels, as is ``width``.
    """
    scale = points.new_tensor([like.shape[3] / width, like.shape[2] / height])
    at = (points + 0.5) * scale - 0.5
    columns = torch.arange(like.shape[3], device=points.device) - at[..., :1]
    rows = torch.arange(like.shape[2], device=points.device) - at[..., 1:]
    return torch.exp(-(rows.square()[..., :, None] + columns.square()[..., None, :]) / (2 * SIGMA**2))


def peaks(maps: Tensor, height: int, width: int) -> Tensor:
    """Return where heat maps are highest, in pixels, ``(batch, points, 2)``: columns and rows.

    :param maps: ``(batch, points, map height, map width)``.
    :param height: of the image, in pixels, as is ``width``.
    """
    rows, columns = maps.shape[2:]
    best = maps.flatten(2).argmax(2)
    # At an edge the neighbour on the other side stands in, so that an answer isn't moved there.
    padded = nn.functional.pad(maps, (1, 1, 1, 1), mode="reflect").flatten(2)

    def beside(step: int) -> Tensor:
        place = (best // columns + 1) * (columns + 2) + best % columns + 1 + step
        return padded.gather(2, place[..., None])[..., 0]

    aside = torch.stack([beside(1) - beside(-1), beside(columns + 2) - beside(-columns - 2)], 2).sign() / 4
    at = torch.stack([best % columns, best // columns], 2) + aside
    return (at + 0.5) * maps.new_tensor([width / columns, height / rows]) - 0.5
