from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

import torch

from condensery.hookspecs import hookimpl
from condensery.methods import Method
from condensery.stage import Stage
from condensery_plugins.pruning.criteria import Criterion, score
from condensery_plugins.pruning.filters import SHORTCUTS, filter_layers, is_held, remove_filters, removed_percent
from condensery_plugins.pruning.masks import keep_largest


@dataclass(eq=False, kw_only=True)
class FilterPruning(Method):
    """Take out the filters that a criterion finds least important, then train the rest.

    The criteria of the survey's section 1.2.1 and their usual controls, under one protocol; the idea of comparing them
    is that of Molchanov, Tyree, Karras, Aila, Kautz: "Pruning Convolutional Neural Networks for Resource Efficient
    Inference", ICLR 2017. ``ratio`` is the share of filters that goes, of each layer (``local``) or of all layers
    together (``global``; the scores are compared as they are). Each layer keeps its best filter.
    Raises NotApplicable on a net without convolutions, or with only the one that embeds a Transformer's patches.
    """

    leaves = frozenset({"mask"})

    criterion: Criterion = "l2"
    ratio: float = 0.3
    scope: Literal["global", "local"] = "local"
    samples: int = 256
    skip: list[str] = dataclasses.field(default_factory=lambda: list(SHORTCUTS))

    @hookimpl
    def prepare(self, stage: Stage) -> None:
        """Score the filters and take the lowest out, before the optimizer exists."""
        layers = {w.path: w for w in filter_layers(stage, self.key, self.skip)}
        scores = score(stage, list(layers.values()), self.criterion, self.samples)
        scores = {p: torch.where(is_held(layers[p]), float("-inf"), s) for p, s in scores.items()}
        keep = keep_largest(scores, self.ratio, scope=self.scope)
        for path, found in scores.items():
            if not bool(keep[path].any()):
                keep[path][found.argmax()] = True
        remove_filters(stage, {p: ~k for p, k in keep.items()})

    @hookimpl
    def report(self, stage: Stage) -> dict[str, float]:
        """Return the share of filters that is gone."""
        return {"filters_removed_percent": removed_percent(filter_layers(stage, self.key, self.skip))}
