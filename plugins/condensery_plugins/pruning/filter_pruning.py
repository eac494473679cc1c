from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from condensery import Stage, hookimpl
from condensery_plugins.pruning.criteria import Criterion, score
from condensery_plugins.pruning.filters import FilterMethod, is_there, smallest
from condensery_plugins.pruning.refusals import refuse_nothing


@dataclass(eq=False, kw_only=True)
class FilterPruning(FilterMethod):
    """Take out the filters that a criterion finds least important, then train the rest.

    The criteria of the survey's section 1.2.1 and their usual controls, under one protocol; the idea of comparing them
    is that of Molchanov, Tyree, Karras, Aila, Kautz: "Pruning Convolutional Neural Networks for Resource Efficient
    Inference", ICLR 2017. ``ratio`` is the share of filters that goes, of those still there, of each layer (``local``)
    or of all layers together (``global``; the scores are compared as they are). Each layer keeps its best filter.

    When: as the stage starts, at once. Filters that a residual connection couples with other layers' can't be cut;
    those that go are held at zero (``coupled="hold"``), or such layers keep all (``"leave"``), as do those in ``skip``.

    Raises NotApplicable on a net without convolutions, or with only the one that embeds a Transformer's patches.
    """

    key = "filter-pruning"

    criterion: Criterion = "l2"
    scope: Literal["global", "local"] = "local"
    samples: int = 256

    @hookimpl
    def prepare(self, stage: Stage) -> None:
        """Score the filters and take the lowest out, before the optimizer exists."""
        layers = self.convolutions(stage)
        scores = score(stage, layers, self.criterion, self.samples)

        # A criterion may see only some of the layers, as one by the scales of norms does.
        there = {w.path: is_there(w) for w in layers if w.path in scores}
        sizes = [int(t.sum()) for t in there.values()]
        refuse_nothing(stage, self.key, "ratio", self.ratio, sizes, unit="filter", scope=self.scope)

        ranked = {path: scores[path].masked_fill(~t, float("-inf")) for path, t in there.items()}
        self.take_out(stage, smallest(ranked, self.ratio, self.scope))
