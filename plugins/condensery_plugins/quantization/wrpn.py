from __future__ import annotations

from dataclasses import dataclass

import torch

from condensery import Weight
from condensery_plugins.quantization.calibration import Seen, refuse_scattered_filters
from condensery_plugins.quantization.gradients import Estimator
from condensery_plugins.quantization.observers import Scheme, mean_square
from condensery_plugins.quantization.quantizer import BitQuantizer
from condensery_plugins.quantization.signs import ScaledSign
from condensery_plugins.quantization.uniform import Uniform, for_unit_input


@dataclass(eq=False, kw_only=True)
class WRPN(BitQuantizer):
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
    counts_zeros = True

    weight_bits: int = 2
    normalize: bool = True
    estimator: Estimator = "clip"

    def weight_quantizer(self, weight: Weight, bits: int) -> Uniform | ScaledSign:
        """Return levels from -1 to 1, to which the layer's weights are fitted first; of one bit, scaled signs."""
        if bits == 1:
            refuse_scattered_filters(self.key, weight)
            return ScaledSign(scaled=True, axis=weight.axes[0], gradient=self.estimator)

        scheme, latent = Scheme(bits), weight.latent.data
        if self.normalize:
            low, high = mean_square([latent.flatten()], scheme)
            end = torch.maximum(-low, high)
            latent.div_(torch.where(end > 0, end, 1.0))
        one = torch.ones((), device=latent.device)
        return Uniform.on(scheme.grid(-one, one), bits, self.estimator)

    def input_quantizer(self, seen: Seen, bits: int) -> Uniform:
        """Return levels from 0 to 1."""
        return for_unit_input(seen, bits, self.estimator)
