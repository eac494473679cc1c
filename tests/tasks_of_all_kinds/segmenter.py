"""A segmenter: one class for each pixel, pixels that don't count, images that are wider than high."""

from __future__ import annotations

from tests.tasks_of_all_kinds.made import FEW

from condensery_plugins.models.pixels import build
from condensery_plugins.tasks.brightest import IGNORED, Brightest

__all__ = ["IGNORED", "Segmentation", "build"]


class Segmentation(Brightest):
    """Few images."""

    key = "made-segmentation"
    sizes = FEW
