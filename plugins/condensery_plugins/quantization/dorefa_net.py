from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from condensery import Stage, Transform, Weight, hookimpl
from condensery_plugins.quantization.calibration import Seen, plan_bits
from condensery_plugins.quantization.gradients import Estimator
from condensery_plugins.quantization.quantizer import BitQuantizer
from condensery_plugins.quantization.signs import ScaledSign
from condensery_plugins.quantization.tanh_levels import TanhLevels, dorefa_levels
from condensery_plugins.quantization.uniform import Uniform, for_unit_input


class GradientLevels(Transform):
    """Lets an activation pass and rounds, with noise, the gradient that comes back in training.

    For each example: g_q = 2m (round(n z) / n - 1/2) with z = clip(g / 2m + 1/2 + u / n, 0, 1), m its largest |g|,
    n = 2^levels - 1 and u evenly drawn from -1/2 to 1/2: so that the expectation stays what it was.

    :param width: of a gradient, in bits.
    """

    key = "gradient-levels"

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, value: Tensor) -> Tensor:
        """Return the value as it is, ``(batch, ...)``."""
        if not (self.training and torch.is_grad_enabled() and value.requires_grad):
            return value
        value = value.view_as(value)  # a hook on the layer's own output would stay on it
        value.register_hook(self.rounded)  # type: ignore[no-untyped-call]
        return value

    def rounded(self, gradient: Tensor) -> Tensor:
        """Return the rounded gradient, ``(batch, ...)``; an example whose gradient is all zero keeps that."""
        last: int = 2**self.width - 1
        largest = gradient.abs().amax(list(range(1, gradient.dim())), keepdim=True)
        noise = (torch.rand_like(gradient) - 0.5) / last
        share = gradient / (2 * largest.clamp_min(torch.finfo(gradient.dtype).tiny)) + 0.5 + noise
        levels = (share.clamp(0, 1) * last).round() / last
        return largest * (2 * levels - 1)

    def config(self) -> dict[str, Any]:
        """Return the width."""
        return {"width": self.width}


@dataclass(eq=False, kw_only=True)
class DoReFaNet(BitQuantizer):
    """Train a net with weights, activations and gradients of few bits.

    Zhou, Wu, Ni, Zhou, Wen, Zou: "DoReFa-Net: Training Low Bitwidth Convolutional Neural Networks with Low Bitwidth
    Gradients", 2016 [27]. Weights are levels from -1 to 1 of their tanh, of one bit their sign times the layer's mean
    size; activations are levels from 0 to 1, cut off there, or over the range that was seen where that has negative
    numbers, as behind no ReLU. The first and last layer stay float unless ``edge_bits`` is given. Batch normalization
    makes good for the size of the weights, so the net must have some.

    When: quantizers act from the start of the stage. In each backward pass the gradient that reaches the output of a
    quantized layer is rounded with noise, drawn by the run's seed; ``gradient_bits: null`` leaves it as it is.

    End: weights and activations stay quantized; an artifact holds a code for each weight and a codebook for each layer.

    Raises NotApplicable where a layer is quantized already.
    """

    key = "dorefa-net"

    needs = frozenset({"float-weights", "batch-norm"})

    weight_bits: int = 1
    activation_bits: int | None = 2
    gradient_bits: int | None = 6
    estimator: Estimator = "clip"

    def weight_quantizer(self, weight: Weight, bits: int) -> TanhLevels | ScaledSign:
        """Return levels of the weights' tanh, or scaled signs."""
        return dorefa_levels(weight, bits)

    def input_quantizer(self, seen: Seen, bits: int) -> Uniform:
        """Return levels from 0 to 1."""
        return for_unit_input(seen, bits, self.estimator)

    @hookimpl
    def prepare(self, stage: Stage) -> None:
        """Attach the quantizers, and those of gradients until the stage ends."""
        self.quantize(stage)
        if self.gradient_bits is not None:
            for path in plan_bits(stage, self.weight_bits, None):
                stage.attach(f"{path}:output", self.key, GradientLevels(self.gradient_bits), keep=False)
