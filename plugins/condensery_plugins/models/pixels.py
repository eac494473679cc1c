"""A small segmenter: class scores for each pixel."""

from __future__ import annotations

from torch import nn

from condensery.tasks import TaskFacts
from condensery_plugins.models.facts import builder, scaled


@builder("pixels")
def build(facts: TaskFacts, name: str, *, width: float = 1.0) -> nn.Module:
    """Build two convolutions with 8 channels between them, before ``width``; images keep their size."""
    channels = scaled(width, 8)
    first = nn.Conv2d(facts.channels, channels, 3, padding=1)
    return nn.Sequential(first, nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, facts.outputs, 1))
