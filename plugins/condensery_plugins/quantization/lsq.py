from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from condensery import Transform, Weight, straight_through
from condensery.nets import QUANTIZE, Coding
from condensery_plugins.codecs.affine import Affine
from condensery_plugins.quantization.calibration import Plan, Seen, flat, levels_beyond
from condensery_plugins.quantization.quantizer import BitQuantizer


class LearnedStep(Transform):
    """A uniform quantizer whose step size is learned, for a weight or an activation of any shape.

    :param bits: width of a level's number.
    :param signed: levels -2^(b-1) .. 2^(b-1) - 1, otherwise 0 .. 2^b - 1.
    :param batched: dimension 0 is the batch, which the gradient scale leaves out.
    """

    key = "lsq-step"
    rank = QUANTIZE
    bits: int
    settings = {"weight_decay": 0.0}

    def __init__(self, bits: int, signed: bool = True, batched: bool = False) -> None:
        super().__init__()
        self.bits, self.signed, self.batched = bits, signed, batched
        self.low = -(2 ** (bits - 1)) if signed else 0
        self.high = 2 ** (bits - 1) - 1 if signed else 2**bits - 1
        self.step = nn.Parameter(torch.ones(()))

    def start(self, value: Tensor) -> LearnedStep:
        """Set the step to 2 mean|v| / sqrt(Qp) (section 2.1) and return self."""
        with torch.no_grad():
            self.step.copy_((2 * value.abs().mean() / self.high**0.5).clamp_min(1e-8))
        return self

    def forward(self, value: Tensor) -> Tensor:
        """Return step * round(clip(v / step)); gradients by eq. 3 and 5, that of the step times 1 / sqrt(N Qp)."""
        if not value.numel():
            return value  # such as what an expert is given that no token goes to
        numbers = prod(value.shape[1:]) if self.batched else value.numel()
        scale = (numbers * self.high) ** -0.5
        step = straight_through(self.step, self.step * scale)

        scaled = (value / step).clamp(self.low, self.high)
        return straight_through(scaled.round(), scaled) * step

    def settle(self, latent: Tensor | None) -> None:
        """Keep the step positive."""
        self.step.abs_().clamp_min_(1e-8)

    def holds(self, final: Tensor) -> str | None:
        """Check the number of levels."""
        return levels_beyond(final, 2**self.bits)

    def config(self) -> dict[str, Any]:
        """Return bits and kind of levels."""
        return {"bits": self.bits, "signed": self.signed, "batched": self.batched}

    def code(self, coding: Coding, final: Tensor) -> Coding:
        """Return levels packed in their range, and the step."""
        return Coding(Affine(self.bits, self.step, zero=-self.low))


@dataclass(eq=False, kw_only=True)
class LSQ(BitQuantizer):
    """Train a net with weights and activations on grids whose step sizes are learned.

    Esser, McKinstry, Bablani, Appuswamy, Modha: "Learned Step Size Quantization", ICLR 2020 [36].
    One step per layer for weights and one for inputs; the first and last layer have ``edge_bits``. Inputs that are
    negative on sampled data get signed levels (images, and Transformers, which the paper doesn't treat). Embeddings
    stay float unless ``embeddings`` asks for them, with ``weight_bits``.

    When: quantizers are attached as the stage starts, and their steps train with the net.

    End: they stay; an artifact holds the numbers of the levels and the steps.

    Raises NotApplicable where a layer is quantized already.
    """

    key = "lsq"

    weight_bits: int = 4
    activation_bits: int = 4
    edge_bits: int = 8
    layer_bits: dict[str, int] = field(default_factory=dict)
    layer_activation_bits: dict[str, int] = field(default_factory=dict)
    activations: bool = True
    embeddings: bool = False

    def plan(self) -> Plan:
        """Return the widths, and whether inputs and embeddings have one."""
        inputs = self.activation_bits if self.activations else None
        plan = Plan(self.weight_bits, inputs, self.edge_bits, self.embeddings)
        return plan._replace(layer_weights=self.layer_bits, layer_inputs=self.layer_activation_bits)

    def weight_quantizer(self, weight: Weight, bits: int) -> LearnedStep:
        """Return a quantizer with a step for the layer's weights."""
        return LearnedStep(bits).start(weight.latent)

    def input_quantizer(self, seen: Seen, bits: int) -> LearnedStep:
        """Return a quantizer with a step for what reached the layer, and signed levels if that was negative."""
        values = flat(seen)
        return LearnedStep(bits, signed=bool((values < 0).any()), batched=True).start(values)
