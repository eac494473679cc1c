from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from condensery import Method, Stage, Weight, hookimpl
from condensery_plugins.quantization.binarized import Edges, hold
from condensery_plugins.quantization.calibration import quantized_share
from condensery_plugins.quantization.signs import ScaledSign


@dataclass(eq=False, kw_only=True)
class BWN(Method):
    """Train a net whose weights are signs, times the mean size of their filter.

    Rastegari, Ordonez, Redmon, Farhadi: "XNOR-Net: ImageNet Classification Using Binary Convolutional Neural Networks",
    ECCV 2016 [26], the Binary-Weight-Network of section 3.1: a filter W of n weights becomes a sign(W) with a =
    mean|W|, which is nearest. The gradient of a weight is g (1/n + a 1(|w| <= 1)) as the paper has it, or with
    ``gradient: exact`` the chain rule through the mean.

    When: each filter's mean over its inputs is taken away and it is cut off at -1 and 1, at the start and after each
    step.

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
        hold(stage, self.key, lambda w: filter_signs(w, self.gradient, self.centred), self.edges)

    @hookimpl
    def report(self, stage: Stage) -> dict[str, float]:
        """Return the share of the net's parameters that are binary."""
        return quantized_share(stage, self.key)


def filter_signs(weight: Weight, gradient: Literal["paper", "exact"], centred: bool) -> ScaledSign:
    """Return what holds each filter of a weight at signs times its mean size."""
    made = ScaledSign(scaled=True, axis=weight.axes[0], gradient=gradient, limited=True, centred=centred)
    return made.start(weight.latent)
