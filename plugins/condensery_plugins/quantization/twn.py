from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from condensery import Weight
from condensery_plugins.quantization.calibration import refuse_scattered_filters
from condensery_plugins.quantization.quantizer import Edges, FixedWidth
from condensery_plugins.quantization.signs import ScaledTernary


@dataclass(eq=False, kw_only=True)
class TWN(FixedWidth):
    """Train a net whose weights are a scale times -1, 0 or 1, nearest to latent weights.

    Li, Zhang, Liu: "Ternary Weight Networks", NeurIPS workshop 2016 [28]. A weight within the threshold, ``factor``
    times mean|W|, is zero; the scale is the mean size of those beyond it. ``threshold: exact`` searches the threshold
    that leaves the least squared error. One threshold and scale for each layer (first version, 0.7) or for each filter
    (third version, 0.75). With ``factor: 0`` no weight is zero: signs times the mean size, the binary net (BPWN) that
    the paper compares with.

    When: threshold and scale are found anew in each pass; gradients go to the latent weights as they are.

    End: an artifact holds ternary codes, 1.6 bits each, or signs of one bit where no weight is zero, and the scales.

    Raises NotApplicable where a layer is quantized already, and with ``scope: filter`` where it is a transposed
    convolution in groups.
    """

    key = "twn"

    counts_zeros = True

    factor: float = 0.7
    threshold: Literal["approximate", "exact"] = "approximate"
    scope: Literal["layer", "filter"] = "layer"
    edges: Edges = "quantized"

    def weight_quantizer(self, weight: Weight, bits: int) -> ScaledTernary:
        """Return what holds the layer's weights, or each filter's, at ternary values."""
        factor = self.factor if self.threshold == "approximate" else None
        if self.scope == "layer":
            return ScaledTernary(factor=factor)
        refuse_scattered_filters(self.key, weight)
        return ScaledTernary(weight.axes[0], factor=factor)
