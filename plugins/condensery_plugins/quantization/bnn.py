from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from condensery import Stage, hookimpl
from condensery_plugins.quantization.binarized import UnitWeights, attach_signs, input_signs


@dataclass(eq=False, kw_only=True)
class BNN(UnitWeights):
    """Train a net whose weights and activations are -1 or 1; batch normalization gives the scales.

    Courbariaux, Hubara, Soudry, El-Yaniv, Bengio: "Binarized Neural Networks: Training Deep Neural Networks with
    Weights and Activations Constrained to +1 or -1", NeurIPS 2016 [24]. All layers have binary weights, kept as in
    BinaryConnect; all but the first see the sign of their input. A sign's gradient passes where the input is within -1
    and 1. The sign must see what batch normalization gives, so a ReLU module in between is taken away. With ``neurons:
    stochastic`` the sign of an input is drawn in training, 1 with probability clip((x + 1) / 2, 0, 1).

    When: the signs act from the start of the stage. A step of a latent weight is multiplied by Glorot's factor.

    End: an artifact holds the signs of the weights, one bit each.

    Raises NotApplicable where a layer is quantized already, and where a layer's input is never negative although no
    ReLU module stands before it: an activation that is called as a function can't be taken away.
    """

    key = "bnn"

    neurons: Literal["deterministic", "stochastic"] = "deterministic"

    @hookimpl
    def prepare(self, stage: Stage) -> None:
        """Hold all weights and inputs at their signs, but for the net's own input."""
        super().prepare(stage)
        first = stage.edges()[0]
        inner = [weight for weight in self.held(stage) if weight.path != first]
        attach_signs(stage, self.key, inner, lambda: input_signs(self.neurons == "stochastic"))
