"""Handwritten digits that ship with scikit-learn: a real task for a fresh machine."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from condensery import UsageError
from condensery.tasks import Split, TaskFacts
from condensery_plugins.tasks.images import ImageTask, sgd, upscale
from condensery_plugins.tasks.tensors import Stored

TRAIN, TEST = 1297, 500


class Digits(ImageTask):
    """Ten digits as 8x8 grey images with 17 levels, 1,297 to train on and 500 to test on.

    Alpaydin, Kaynak: "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998; scikit-learn
    ships its test part of 1,797 images. The split is this project's own: stratified, always the same.

    :param size: side of the image in pixels; above 8 the images are enlarged, so that larger nets fit.
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

    def __init__(self, size: int = 8) -> None:
        if not 8 <= size <= 256:
            raise UsageError(f"task {self.key}: size must be 8 to 256, got {size}")
        super().__init__(TaskFacts("image", outputs=10, channels=1, size=size), (0.3048,), (0.3755,))

    def load(self, split: Split) -> Stored:
        """Read the images that scikit-learn ships."""
        from sklearn.datasets import load_digits

        bunch: Any = load_digits()
        labels = torch.from_numpy(bunch.target.astype(np.int64))
        test = _test_part(labels)
        keep = test if split == "test" else ~test

        images = torch.from_numpy((bunch.images[keep.numpy()] * 15).astype(np.uint8)).unsqueeze(1)
        return {"images": upscale(images, self.facts.height)}, labels[keep]


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
