from __future__ import annotations

from dataclasses import dataclass

import torch

from condensery import Method, Stage, Weight, hookimpl
from condensery_plugins.quantization.calibration import quantize_layers, quantized_share
from condensery_plugins.quantization.gradients import Estimator
from condensery_plugins.quantization.observers import Scheme, mean_square
from condensery_plugins.quantization.signs import ScaledSign
from condensery_plugins.quantization.uniform import Uniform, for_unit_input


@dataclass(eq=False, kw_only=True)
class WRPN(Method):
    """Train a wider net with weights and activations on grids that never change: -1 to 1 and 0 to 1.

    Mishra, Nurvitadhi, Cook, Marr: "WRPN: Wide Reduced-Precision Networks", ICLR 2018 [32]. Weights are cut off at -1
    and 1 and rounded to 2^b - 1 levels, of two bits -1, 0 and 1; of one bit they are signs times the mean size of
    their filter. Activations are cut off at 0 and 1. Nothing is scaled, normalized or divided. The width is the
    model's: ``student: {key: resnet20, width: 2.0}``; at width 1 this is only a clipped quantizer. The first and last
    layer stay float unless ``edge_bits`` is given.

    When: quantizers act from the start of the stage. Usual initial weights, and those of a trained net, are so small
    that nearly all round to zero, so ``normalize`` first divides a layer's so that -1 to 1 is where rounding changes
    them least; batch normalization behind the layer makes good for it as it trains.

    End: they stay; an artifact holds codes in their width.

    Raises NotApplicable where a layer is quantized already, and on a net without batch normalization: its activations
    would be cut off nearly everywhere.
    """

    key = "wrpn"

    needs = frozenset({"float-weights", "batch-norm"})
    leaves = frozenset({"quantized-weights", "quantized-activations"})
    removes = frozenset({"float-weights"})

    weight_bits: int = 2
    activation_bits: int | None = 4
    edge_bits: int | None = None
    normalize: bool = True
    estimator: Estimator = "clip"

    @hookimpl
    def prepare(self, stage: Stage) -> None:
        """Attach the quantizers."""
        quantize_layers(
            stage,
            self.key,
            weight_bits=self.weight_bits,
            activation_bits=self.activation_bits,
            edge_bits=self.edge_bits,
            for_weight=self._for_weight,
            for_input=lambda seen, bits: for_unit_input(seen, bits, self.estimator),
        )

    def _for_weight(self, weight: Weight, bits: int) -> Uniform | ScaledSign:
        if bits == 1:
            return ScaledSign(scaled=True, axis=weight.axes[0], gradient=self.estimator)

        scheme, latent = Scheme(bits), weight.latent.data
        if self.normalize:
            low, high = mean_square([latent.flatten()], scheme)
            end = torch.maximum(-low, high)
            latent.div_(torch.where(end > 0, end, 1.0))
        one = torch.ones((), device=latent.device)
        return Uniform.on(scheme.grid(-one, one), bits, self.estimator)

    @hookimpl
    def report(self, stage: Stage) -> dict[str, float]:
        """Return how many quantized weights are zero, and the share of the net's parameters that are quantized."""
        held = [w for w in stage.weights() if w.stack is not None and self.key in w.stack.transforms]
        zeros = sum(int((w.value == 0).sum()) for w in held)
        count = max(1, sum(w.latent.numel() for w in held))
        return {"zeros_percent": 100 * zeros / count, **quantized_share(stage, self.key)}
