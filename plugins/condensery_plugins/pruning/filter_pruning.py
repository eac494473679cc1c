from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

import torch

from condensery.contract import Method, hookimpl
from condensery.run import Stage
from condensery_plugins.pruning.criteria import Criterion, score
from condensery_plugins.pruning.filters import SHORTCUTS, Coupled, filter_layers, is_there, remove_filters
from condensery_plugins.pruning.masks import keep_largest
from condensery_plugins.pruning.refusals import refuse_nothing


@dataclass(eq=False, kw_only=True)
class FilterPruning(Method):
    """Take out the filters that a criterion finds least important, then train the rest.

    The criteria of the survey's section 1.2.1 and their usual controls, under one protocol; the idea of comparing them
    is that of Molchanov, Tyree, Karras, Aila, Kautz: "Pruning Convolutional Neural Networks for Resource Efficient
    Inference", ICLR 2017. ``ratio`` is the share of filters that goes, of those still there, of each layer
    (``local``) or of all layers together (``global``; the scores are compared as they are). Each layer keeps its best.
    Filters that a residual connection couples with other layers' can't be cut; those that go are held at zero
    (``coupled="hold"``), or such layers keep all (``"leave"``).
    Raises NotApplicable on a net without convolutions, or with only the one that embeds a Transformer's patches.
    """

    key = "filter-pruning"

    leaves = frozenset({"mask"})
    removes = frozenset({"dense-shape"})

    criterion: Criterion = "l2"
    ratio: float = 0.3
    scope: Literal["global", "local"] = "local"
    samples: int = 256
    coupled: Coupled = "hold"
    skip: list[str] = dataclasses.field(default_factory=lambda: list(SHORTCUTS))

    @hookimpl
    def prepare(self, stage: Stage) -> None:
        """Score the filters and take the lowest out, before the optimizer exists."""
        layers = {w.path: w for w in filter_layers(stage, self.key, self.skip, self.coupled)}
        scores = score(stage, list(layers.values()), self.criterion, self.samples)
        there = {p: is_there(layers[p]) for p in scores}
        sizes = [int(t.sum()) for t in there.values()]
        refuse_nothing(stage, self.key, "ratio", self.ratio, sizes, unit="filter", scope=self.scope)
        keep = keep_largest({p: s[there[p]] for p, s in scores.items()}, self.ratio, scope=self.scope)
        gone = {}
        for path, kept in keep.items():
            if len(kept) and not bool(kept.any()):
                kept[scores[path][there[path]].argmax()] = True
            gone[path] = torch.zeros_like(there[path])
            gone[path][there[path]] = ~kept
        self.filters_ = sum(int(t.sum()) for t in there.values())
        self.cut_, self.held_ = remove_filters(stage, gone)

    @hookimpl
    def report(self, stage: Stage) -> dict[str, float]:
        """Return the share of filters removed, of those that were there, and the part of it cut out of the net."""
        return {
            "filters_removed_percent": 100 * (self.cut_ + self.held_) / self.filters_,
            "filters_cut_percent": 100 * self.cut_ / self.filters_,
        }
