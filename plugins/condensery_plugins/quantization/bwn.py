from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from condensery import Method, Stage, hookimpl
from condensery_plugins.quantization.binarized import Edges, attach_each, chosen_weights
from condensery_plugins.quantization.signs import ScaledSign


@dataclass(eq=False, kw_only=True)
class BWN(Method):
    """Train a net whose weights are signs, times the mean size of their filter.

    Rastegari, Ordonez, Redmon, Farhadi: "XNOR-Net: ImageNet Classification Using Binary Convolutional Neural Networks",
    ECCV 2016 [26], the Binary-Weight-Network of section 3.1: a filter W of n weights becomes a sign(W) with a = mean|W|,
    which is nearest. The gradient of a weight is g (1/n + a 1(|w| <= 1)) as the paper has it, or with ``gradient:
    exact`` the chain rule through the mean.

    When: each filter's mean over its inputs is taken away and it is cut off at -1 and 1, at the start and after each step.

    End: an artifact holds signs, one bit each, and a scale for each filter.

    Raises NotApplicable where a layer is quantized already, or the net has no layer between the first and the last.
    """

    key = "bwn"

    needs = frozenset({"float-weights"})
    leaves = frozenset({"quantized-weights"})
    removes = frozenset({"float-weights"})

    gradient: Literal["paper", "exact"] = "paper"
    edges: Edges = "float"
    centred: bool = True

    @hookimpl
    def prepare(self, stage: Stage) -> None:
        """Hold the weights at scaled signs."""
        self.names_ = hold_scaled_signs(stage, self.key, self.edges, self.gradient, self.centred)

    @hookimpl
    def report(self, stage: Stage) -> dict[str, float]:
        """Return the share of the net's parameters that are binary."""
        return stage.reached(w for w in stage.weights() if w.name in self.names_)


def hold_scaled_signs(
    stage: Stage, method: str, edges: Edges, gradient: Literal["paper", "exact"], centred: bool
) -> list[str]:
    """Hold each filter at its mean size times signs, and return the names of the weights."""
    weights = chosen_weights(stage, method, edges)
    attach_each(
        stage,
        method,
        weights,
        lambda w: ScaledSign(scaled=True, axis=w.axes[0], gradient=gradient, limited=True, centred=centred),
    )
    return [weight.name for weight in weights]
