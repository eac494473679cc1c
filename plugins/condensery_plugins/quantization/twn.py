from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from condensery import Method, Stage, hookimpl
from condensery_plugins.quantization.binarized import Edges, held_by, hold, zeros
from condensery_plugins.quantization.calibration import quantized_share
from condensery_plugins.quantization.signs import ScaledTernary


@dataclass(eq=False, kw_only=True)
class TWN(Method):
    """Train a net whose weights are a scale times -1, 0 or 1, nearest to latent weights.

    Li, Zhang, Liu: "Ternary Weight Networks", NeurIPS workshop 2016 [28]. A weight within the threshold, ``factor``
    times mean|W|, is zero; the scale is the mean size of those beyond it. ``threshold: exact`` searches the threshold
    that leaves the least squared error. One threshold and scale for each layer (first version, 0.7) or for each filter
    (third version, 0.75).

    When: threshold and scale are found anew in each pass; gradients go to the latent weights as they are.

    End: an artifact holds ternary codes, 1.6 bits each, and the scales.

    Raises NotApplicable where a layer is quantized already.
    """

    key = "twn"

    needs = frozenset({"float-weights"})
    leaves = frozenset({"quantized-weights"})
    removes = frozenset({"float-weights"})

    factor: float = 0.7
    threshold: Literal["approximate", "exact"] = "approximate"
    scope: Literal["layer", "filter"] = "layer"
    edges: Edges = "quantized"

    @hookimpl
    def prepare(self, stage: Stage) -> None:
        """Hold the weights at ternary values."""
        factor = self.factor if self.threshold == "approximate" else None
        by_filter = self.scope == "filter"
        hold(stage, self.key, lambda w: ScaledTernary(w.axes[0] if by_filter else None, factor=factor), self.edges)

    @hookimpl
    def report(self, stage: Stage) -> dict[str, float]:
        """Return the share of zeros in the ternary weights, and of all parameters that are ternary, in percent."""
        return {**zeros(held_by(stage, self.key)), **quantized_share(stage, self.key)}
