from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from condensery.contract import Method, hookimpl
from condensery.errors import NotApplicable, UsageError, nearest
from condensery.nets import CONVS, Weight
from condensery.run import Stage
from condensery_plugins.pruning.filters import is_free
from condensery_plugins.pruning.weight_groups import living


class Plan(NamedTuple):
    """One of the paper's plans: rates by the number of the convolution, counted from 1 in the forward pass.

    :param convolutions: how many the net must have.
    """

    convolutions: int
    rates: dict[int, float]


def _blocks(depth: int, rates: tuple[float, float, float], skip: tuple[int, ...]) -> Plan:
    """Return a plan for a ResNet of 6n + 2 layers: its first convolutions in a block have even numbers."""
    n = (depth - 2) // 6
    found = {2 * (stage * n + block) + 2: rate for stage, rate in enumerate(rates) if rate for block in range(n)}
    return Plan(depth - 1, {k: r for k, r in found.items() if k not in skip})


PLANS = {
    "resnet56-a": _blocks(56, (0.1, 0.1, 0.1), (16, 20, 38, 54)),
    "resnet56-b": _blocks(56, (0.6, 0.3, 0.1), (16, 18, 20, 34, 38, 54)),
    "resnet110-a": _blocks(110, (0.5, 0.0, 0.0), (36,)),
    "resnet110-b": _blocks(110, (0.5, 0.4, 0.3), (36, 38, 74)),
    "vgg16-a": Plan(13, dict.fromkeys((1, *range(8, 14)), 0.5)),
}
"""Section 4 of the paper."""


@dataclass(eq=False, kw_only=True)
class L1FilterPruning(Method):
    """Cut the filters with the smallest L1 norm out of the net, then train it again.

    Li, Kadav, Durdanovic, Samet, Graf: "Pruning Filters for Efficient ConvNets", ICLR 2017 [14]. A layer of C filters
    keeps floor(C * (1 - rate)). ``plan`` names one of the paper's, or ``uniform``: ``ratio`` of every convolution whose
    filters no shortcut couples with others (in a residual block of two, the first). ``rates`` gives the share by layer
    path instead, of layers that share their channels with no other. ``independent`` scores whole filters; ``greedy``
    leaves out what reads maps that are gone (section 3.3). Weights that a mask holds count as zero. A layer keeps at
    least one filter, and a rate above 0 takes at least one where there are two. Raises NotApplicable on a net that has
    no such convolution, or not as many as the plan numbers.
    """

    key = "l1-filter-pruning"

    removes = frozenset({"dense-shape"})

    plan: Literal["uniform", "resnet56-a", "resnet56-b", "resnet110-a", "resnet110-b", "vgg16-a"] = "uniform"
    ratio: float = 0.5
    rates: dict[str, float] = dataclasses.field(default_factory=dict)
    variant: Literal["independent", "greedy"] = "independent"

    @hookimpl
    def prepare(self, stage: Stage) -> None:
        """Cut before the optimizer exists."""
        weights = {w.path: w for w in stage.weights(kinds=CONVS)}
        rates = self._rates(stage, weights)
        for path in [p for p, rate in rates.items() if rate]:
            _refuse_shared(stage, path)
        removed: dict[str, list[int]] = {}
        for path, rate in rates.items():
            gone = stage.surgeon.inputs_gone(removed).get(path, []) if self.variant == "greedy" else []
            score = norms(living(weights[path]).detach(), gone)
            removed[path] = score.argsort(stable=True)[: len(score) - kept(len(score), rate)].tolist()
        removal = stage.surgeon.remove_channels(removed)
        self.gone_ = sum(map(len, removal.removed.values()))
        self.share_ = removal.ratio

    def _rates(self, stage: Stage, weights: Mapping[str, Weight]) -> dict[str, float]:
        """Return the share to cut by layer path, in the order of the forward pass."""
        if not weights:
            raise NotApplicable("l1-filter-pruning", "the net has no convolution")
        order = [p for p in stage.order(kinds=CONVS) if p in weights]
        if self.rates:
            for path in sorted(set(self.rates) - set(order)):
                near = nearest(path, order)
                raise UsageError(
                    f"l1-filter-pruning.rates: no convolution {path!r}" + (f"; did you mean {near!r}?" if near else "")
                )
            return {p: self.rates[p] for p in order if p in self.rates}
        if self.plan == "uniform":
            free = [p for p in order if is_free(stage, p)]
            if not free:
                reasons = (g.reason for p in order if (g := stage.surgeon.group(p)) is not None and g.reason)
                why = next(reasons, "shortcuts couple its filters with other layers'")
                raise NotApplicable("l1-filter-pruning", f"no convolution can lose filters; {order[0]}: {why}")
            return dict.fromkeys(free, self.ratio)
        plan = PLANS[self.plan]
        if len(order) != plan.convolutions:
            raise NotApplicable(
                "l1-filter-pruning",
                f"plan {self.plan!r} numbers {plan.convolutions} convolutions, the net has {len(order)}",
            )
        return {order[number - 1]: rate for number, rate in plan.rates.items()}

    @hookimpl
    def report(self, stage: Stage) -> dict[str, float]:
        """Return how many filters went, and of how many in the layers that were cut."""
        return {"filters_removed_count": self.gone_, "filters_removed_percent": 100 * self.share_}


def _refuse_shared(stage: Stage, path: str) -> None:
    """Refuse a layer that shares its channels: a rate and a ranking are of one layer.

    :raises UsageError: naming the layer and what it shares them with.
    """
    if is_free(stage, path):
        return
    group = stage.surgeon.graph.group(path)
    others = ", ".join(p for p in group.layers if p != path)
    why = f"its channels go with those of {others}" if others else f"each of its {group.blocks} parts must lose as many"
    raise UsageError(f"l1-filter-pruning: layer {path!r} can't lose filters by itself: {why}")


def norms(filters: Tensor, gone: list[int]) -> Tensor:
    """Return the L1 norm of each filter, ``(filters,)``.

    :param filters: ``(filters, inputs, ...)``.
    :param gone: inputs that don't count.
    """
    counts = torch.ones(filters.shape[1], dtype=torch.bool, device=filters.device)
    counts[gone] = False
    return filters[:, counts].abs().flatten(1).sum(1)


def kept(channels: int, rate: float) -> int:
    """Return how many of some channels stay: floor(channels * (1 - rate)), at least one.

    In decimals: ``int(10 * (1 - 0.9))`` is 0 in binary floats.
    """
    return max(1, int(channels * (1 - Decimal(str(rate)))))
