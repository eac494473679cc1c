"""Handwritten digits that ship with scikit-learn: a real task for a fresh machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from condensery import UsageError
from condensery.tasks import Split, TaskFacts
from condensery_plugins.tasks.images import ImageTask, sgd, upscale
from condensery_plugins.tasks.tensors import Stored

TRAIN, TEST, SIDE = 1297, 500, 8


class Digits(ImageTask):
    """Ten digits as 8x8 grey images with 17 levels, 1,297 to train on and 500 to test on.

    Alpaydin, Kaynak: "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998; scikit-learn
    ships its test part of 1,797 images. The split is this project's own: stratified, always the same.

    :param size: side of the image in pixels; above 8 the images are enlarged, so that larger nets fit.
    :param loss: ``cross-entropy``, or ``squared-hinge``.
    """

    key = "digits"
    default_model = "resnet8"
    base = {
        "epochs": 12,
        "batch_size": 64,
        "optimizer": sgd(0.1),
        "schedule": {"name": "cosine"},
    }
    sizes = {"train": TRAIN, "test": TEST}
    white = 240.0  # 16 levels above black, times 15: exact in uint8, and enlarged images keep their halftones

    def __init__(self, size: int = 8, loss: str = "cross-entropy") -> None:
        if not 8 <= size <= 256:
            raise UsageError(f"task {self.key}: size must be 8 to 256, got {size}")
        super().__init__(TaskFacts("image", outputs=10, channels=1, size=size), (0.3048,), (0.3755,), loss=loss)

    def load(self, split: Split) -> Stored:
        """Read the images that scikit-learn ships."""
        stored, labels = _stored(split)
        return {"images": upscale(stored["images"], self.facts.height)}, labels


class DigitRows(Digits):
    """The same digits for nets that read sequences: eight frames, each a row of eight pixels, from top to bottom."""

    key = "digit-rows"
    default_model = "lstm"
    base = {
        "epochs": 20,
        "batch_size": 64,
        "optimizer": {"name": "adamw", "lr": 1e-2, "weight_decay": 0.01},
        "schedule": {"name": "cosine"},
    }

    def __init__(self) -> None:
        super().__init__()
        self.facts = TaskFacts("sequence", outputs=10, size=SIDE, length=SIDE)

    def load(self, split: Split) -> Stored:
        """Read the images that scikit-learn ships."""
        return _stored(split)

    def inputs(self, stored: Mapping[str, Tensor], index: Tensor, noise: Mapping[str, Tensor]) -> Tensor:
        """Return normalised rows, ``(batch, rows, pixels)`` of float32."""
        images: Tensor = super().inputs(stored, index, noise)
        return images.squeeze(1)

    def example(self, batch_size: int = 2) -> Tensor:
        """Return noise with zero mean and unit variance, like normalised rows."""
        return torch.randn((batch_size, SIDE, SIDE), generator=torch.Generator().manual_seed(0))


def _stored(split: Split) -> Stored:
    """Return the images of one split, ``(examples, 1, 8, 8)`` of uint8, and their labels."""
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    labels = torch.from_numpy(bunch.target.astype(np.int64))
    test = _test_part(labels)
    keep = test if split == "test" else ~test
    return {"images": torch.from_numpy((bunch.images[keep.numpy()] * 15).astype(np.uint8)).unsqueeze(1)}, labels[keep]


def _test_part(labels: Tensor) -> Tensor:
    """Mark every class's share of the test examples, evenly spread over the order in which they were written.

    :param labels: of all examples, ``(examples,)``; so are the marks.
    """
    order = torch.argsort(labels, stable=True)
    ends = torch.arange(1, len(labels) + 1) * TEST // len(labels)
    chosen = torch.diff(ends, prepend=torch.zeros(1, dtype=torch.long)) > 0
    test = torch.zeros(len(labels), dtype=torch.bool)
    test[order[chosen]] = True
    return test
