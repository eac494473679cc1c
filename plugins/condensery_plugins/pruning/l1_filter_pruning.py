from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from condensery import Method, NotApplicable, Stage, UsageError, hookimpl
from condensery.nets import CONVS
from condensery_plugins.pruning.criteria import l1
from condensery_plugins.pruning.filters import is_free, kept, need_filters, none_is_free, why_not_free
from condensery_plugins.pruning.weight_groups import living


class Plan(NamedTuple):
    """One of the paper's plans: rates by the number of the convolution, counted from 1 in the forward pass.

    :param convolutions: how many the net must have.
    """

    convolutions: int
    rates: dict[int, float]


def _resnet(depth: int, rates: tuple[float, float, float], whole: tuple[int, ...]) -> Plan:
    """Return a plan for a ResNet of 6n + 2 layers: its first convolutions in a block have even numbers.

    :param rates: of the blocks of each of the net's three stages.
    :param whole: numbers of convolutions that keep all filters, because the net is sensitive to them.
    """
    blocks = (depth - 2) // 6
    first = {2 * (stage * blocks + block) + 2: rates[stage] for stage in range(3) for block in range(blocks)}
    return Plan(depth - 1, {number: rate for number, rate in first.items() if rate and number not in whole})


PLANS = {
    "resnet56-a": _resnet(56, (0.1, 0.1, 0.1), (16, 20, 38, 54)),
    "resnet56-b": _resnet(56, (0.6, 0.3, 0.1), (16, 18, 20, 34, 38, 54)),
    "resnet110-a": _resnet(110, (0.5, 0.0, 0.0), (36,)),
    "resnet110-b": _resnet(110, (0.5, 0.4, 0.3), (36, 38, 74)),
    "vgg16-a": Plan(13, dict.fromkeys((1, *range(8, 14)), 0.5)),
}
"""Section 4 of the paper."""


@dataclass(eq=False, kw_only=True)
class L1FilterPruning(Method):
    """Cut the filters with the smallest L1 norm out of the net, then train it again.

    Li, Kadav, Durdanovic, Samet, Graf: "Pruning Filters for Efficient ConvNets", ICLR 2017 [14]. A layer of C filters
    keeps floor(C * (1 - rate)), at least one. ``plan`` names one of the paper's, or ``uniform``: ``ratio`` of every
    convolution whose filters no shortcut couples with others (in a residual block of two, the first). ``rates`` gives
    the share by layer instead, of layers that share their channels with no other; then nothing else is cut.
    ``independent`` scores whole filters; ``greedy`` leaves out what reads maps that are gone (section 3.3). Weights
    that a mask holds count as zero.

    When: as the stage starts, at once.

    Raises NotApplicable on a net without a convolution that can lose filters, or with not as many as the plan numbers;
    UsageError for rates of layers that share their channels with others.
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
        weights = stage.weights(kinds=CONVS).by_path
        rates = self._rates(stage, [path for path in stage.order(kinds=CONVS) if path in weights])
        for path, rate in rates.items():
            if rate and not is_free(stage, path):
                why = why_not_free(stage, path)
                raise UsageError(f"{self.key}: layer {path!r} can't lose filters by itself: {why}")

        # In the order of the forward pass: greedy scores ask which maps are gone when a layer's turn comes.
        removed: dict[str, list[int]] = {}
        for path, rate in rates.items():
            gone = stage.surgeon.inputs_gone(removed).get(path, []) if self.variant == "greedy" else []
            scores = norms(living(weights[path]).detach(), gone)
            goes = len(scores) - kept(len(scores), 1 - Decimal(str(rate)))
            removed[path] = scores.argsort(stable=True)[:goes].tolist()

        removal = stage.surgeon.remove_channels(removed)
        self.gone_ = sum(map(len, removal.removed.values()))
        self.share_ = removal.ratio

    def _rates(self, stage: Stage, order: list[str]) -> dict[str, float]:
        """Return the share to cut by layer path, in the order of the forward pass.

        :param order: paths of the convolutions as a forward pass first calls them.
        :raises NotApplicable: if no convolution can lose filters, or if there are not as many as the plan numbers.
        """
        need_filters(stage, self.key, order)

        if self.rates:
            rates = stage.layers(self.rates, f"{self.key}.rates", among=order)
            if not rates:
                raise UsageError(f"{self.key}.rates: none of the net's convolutions is {', '.join(self.rates)}")
            return rates

        if self.plan == "uniform":
            free = [path for path in order if is_free(stage, path)]
            if not free:
                raise none_is_free(stage, self.key, order[0])
            return dict.fromkeys(free, self.ratio)

        plan = PLANS[self.plan]
        if len(order) != plan.convolutions:
            numbers = f"plan {self.plan!r} numbers {plan.convolutions} convolutions, the net has {len(order)}"
            raise NotApplicable(self.key, numbers)
        return {order[number - 1]: rate for number, rate in plan.rates.items()}

    @hookimpl
    def report(self, stage: Stage) -> dict[str, float]:
        """Return how many filters went, and of how many in the layers that were cut."""
        return {"filters_removed_count": self.gone_, "filters_removed_percent": 100 * self.share_}


def norms(filters: Tensor, gone: list[int]) -> Tensor:
    """Return the L1 norm of each filter, ``(filters,)``.

    :param filters: ``(filters, inputs, ...)``.
    :param gone: inputs that don't count.
    """
    counts = torch.ones(filters.shape[1], dtype=torch.bool, device=filters.device)
    counts[gone] = False
    return l1(filters[:, counts])
