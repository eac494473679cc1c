from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from condensery import Weight
from condensery.contract import Words
from condensery_plugins.quantization.binarized import UnitWeights
from condensery_plugins.quantization.signs import ScaledSign


@dataclass(eq=False, kw_only=True)
class BinaryConnect(UnitWeights):
    """Train a net whose weights are -1 or 1 in each pass, while steps go to latent weights kept within -1 and 1.

    Courbariaux, Bengio, David: "BinaryConnect: Training Deep Neural Networks with binary weights during propagations",
    NeurIPS 2015 [25]. All layers, the first and the last too; activations and biases stay float. ``deterministic``
    takes the sign; ``stochastic`` draws 1 with probability clip((w + 1) / 2, 0, 1). The gradient of the binary weight
    goes to the latent one as it is.

    When: the signs act from the start of the stage. A step of a latent weight is multiplied by Glorot's factor.

    End: an artifact holds signs, one bit each; with ``inference: real`` the latent weights in floats, as the paper
    tests the stochastic variant.

    Raises NotApplicable where a layer is quantized already.
    """

    key = "binaryconnect"

    leaves = frozenset({"quantized-weights"})

    mode: Literal["deterministic", "stochastic"] = "deterministic"
    inference: Literal["binary", "real"] = "binary"

    def words(self) -> Words:
        """Return that real weights are on no grid, although a later quantizer would meet the one that draws signs."""
        leaves = self.leaves if self.inference == "binary" else frozenset[str]()
        return Words(self.needs, leaves, self.removes)

    def weight_quantizer(self, weight: Weight, bits: int) -> ScaledSign:
        """Return what holds a layer's weights at their signs, taken or drawn."""
        stochastic, real = self.mode == "stochastic", self.inference == "real"
        return ScaledSign(limited=True, stochastic=stochastic, real=real).start(weight.latent)
