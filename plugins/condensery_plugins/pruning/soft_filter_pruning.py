from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from condensery import Stage, Weight, hookimpl
from condensery_plugins.pruning.filters import FilterMethod, is_there, zeroed
from condensery_plugins.pruning.refusals import refuse_nothing
from condensery_plugins.pruning.weight_groups import living


@dataclass(eq=False, kw_only=True)
class SoftFilterPruning(FilterMethod):
    """Set the smallest filters to zero after each epoch and let them grow again; take out the last ones for good.

    He, Kang, Dong, Fu, Yang: "Soft Filter Pruning for Accelerating Deep Convolutional Neural Networks", IJCAI 2018
    [15]. Of each convolution's N filters the floor(N * ratio) with the smallest L_p norm are set to zero in the latent
    weights. Every convolution takes part, those in front of a residual addition too, but for the layers in ``skip``:
    projections of shortcuts. A layer keeps at least one filter.

    When: after every ``interval`` epochs and after the last. Nothing is masked in between: the next step trains zero
    filters like the others.

    End: what is zero is removed, without fine-tuning. Filters that a residual connection couples with other layers'
    can't be cut out of the net; they are held at zero, or with ``coupled="leave"`` such layers take no part.

    Raises NotApplicable on a net without convolutions, or with only the one that embeds a Transformer's patches.
    """

    key = "soft-filter-pruning"

    p: int = 2
    interval: int = 1

    def rate(self, share: float) -> float:
        """Return the share of filters to zero when a share of the stage's epochs is over: always the same."""
        return self.ratio

    @hookimpl
    def prepare(self, stage: Stage) -> None:
        """Refuse a net that has no filters to prune, and a ratio with which none would go."""
        filters = [int(is_there(w).sum()) for w in self.convolutions(stage)]
        refuse_nothing(stage, self.key, "ratio", self.ratio, filters, unit="filter", goes=zeroed)
        self.zeroed_ = self.regrown_ = 0

    @hookimpl
    def after_epoch(self, stage: Stage) -> None:
        """Zero the smallest filters, when an interval or the stage is over."""
        done = stage.epoch + 1
        if done % self.interval and done < stage.epochs:
            return

        # Of the filters that were zeroed last time, those that no longer are have grown again.
        rate = self.rate(done / stage.epochs)
        before, self.zeroed_, still = self.zeroed_, 0, 0
        for weight in self.convolutions(stage):
            gone = self._smallest(weight, rate)
            still += int((self._norms(weight)[is_there(weight)] == 0).sum())
            self.zeroed_ += int(gone.sum())
            with torch.no_grad():
                weight.latent[gone] = 0.0
        self.regrown_ += max(0, before - still)

    @hookimpl
    def end_stage(self, stage: Stage) -> None:
        """Remove the zero filters."""
        self.take_out(stage, {w.path: self._smallest(w, self.ratio) for w in self.convolutions(stage)})

    def _smallest(self, weight: Weight, rate: float) -> Tensor:
        """Return which of the filters that are there go at a rate, bool of shape ``(filters,)``."""
        there = is_there(weight)
        gone = torch.zeros_like(there)
        gone[there] = weakest(self._norms(weight)[there], rate)
        return gone

    def _norms(self, weight: Weight) -> Tensor:
        """Return the L_p norm of each filter, ``(filters,)``."""
        norms: Tensor = torch.linalg.vector_norm(living(weight).detach().flatten(1), self.p, dim=1)
        return norms

    @hookimpl
    def report(self, stage: Stage) -> dict[str, float]:
        """Return how many filters were zeroed last, how often a zero one had grown again, and the shares removed."""
        counts = {"filters_zeroed_count": self.zeroed_, "filters_regrown_count": self.regrown_}
        return {**counts, **super().report(stage)}


def weakest(norms: Tensor, rate: float) -> Tensor:
    """Return which filters go: the floor(N * rate) of the smallest norms, bool of shape ``(filters,)``.

    :param norms: ``(filters,)``.
    """
    gone = torch.zeros(len(norms), dtype=torch.bool, device=norms.device)
    gone[norms.argsort(stable=True)[: zeroed(len(norms), rate)]] = True
    return gone
