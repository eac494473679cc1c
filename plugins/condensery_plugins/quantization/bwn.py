from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from condensery import Weight
from condensery_plugins.quantization.calibration import refuse_scattered_filters
from condensery_plugins.quantization.quantizer import FixedWidth
from condensery_plugins.quantization.signs import ScaledSign


@dataclass(eq=False, kw_only=True)
class BWN(FixedWidth):
    """Train a net whose weights are signs, times the mean size of their filter.

    Rastegari, Ordonez, Redmon, Farhadi: "XNOR-Net: ImageNet Classification Using Binary Convolutional Neural Networks",
    ECCV 2016 [26], the Binary-Weight-Network of section 3.1: a filter W of n weights becomes a sign(W) with a =
    mean|W|, which is nearest. The gradient of a weight is g (1/n + a 1(|w| <= 1)) as the paper has it, or with
    ``gradient: exact`` the chain rule through the mean.

    When: each filter's mean over its inputs is taken away and it is cut off at -1 and 1, at the start and after each
    step.

    End: an artifact holds signs, one bit each, and a scale for each filter.

    Raises NotApplicable where a layer is quantized already or is a transposed convolution in groups, or the net has no
    layer between the first and the last.
    """

    key = "bwn"

    gradient: Literal["paper", "exact"] = "paper"
    centred: bool = True

    def weight_quantizer(self, weight: Weight, bits: int) -> ScaledSign:
        """Return what holds each filter at signs times its mean size."""
        refuse_scattered_filters(self.key, weight)
        made = ScaledSign(scaled=True, axis=weight.axes[0], gradient=self.gradient, limited=True, centred=self.centred)
        return made.start(weight.latent)
