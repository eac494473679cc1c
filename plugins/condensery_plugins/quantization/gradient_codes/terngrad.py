from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from condensery import Stage, hookimpl
from condensery.run import Bucket, Player, Workers
from condensery_plugins.quantization.gradient_codes.codes import Code, Draw, Symbols
from condensery_plugins.quantization.gradient_codes.gradient_code import GradientCode
from condensery_plugins.quantization.gradient_codes.words import packed_trits, unpacked_trits


@dataclass(frozen=True)
class Ternary(Code):
    """Numbers -1, 0 and 1, five to a byte; the scale travels by itself, as all workers share it."""

    def encode(self, values: Tensor, draw: Draw) -> Tensor:
        """Return the sign of each number with the probability of its size, and 0 otherwise.

        :param values: -1 to 1.
        """
        return packed_trits(torch.where(values.abs() > draw(), values.sign(), 0.0) + 1)

    def decode(self, words: Tensor, numbers: int) -> Tensor:
        """Return -1, 0 and 1."""
        return unpacked_trits(words, numbers).float() - 1

    def symbols(self, words: Tensor, numbers: int) -> Symbols:
        """Return -1, 0 and 1, plus 1."""
        return Symbols(unpacked_trits(words, numbers), 3, 1)

    def size(self, numbers: int) -> int:
        """Return a byte for five numbers, and the scale of four that was agreed on before."""
        return 4 + -(-numbers // 5)


@dataclass(eq=False, kw_only=True)
class TernGrad(GradientCode):
    """Send -1, 0 or 1 for each gradient, drawn so that the mean is right, times a scale that all workers share.

    Wen and others: "TernGrad: Ternary Gradients to Reduce Communication in Distributed Deep
    Learning", NIPS 2017 [37]. Per layer and worker gradients are clipped at ``clip`` standard deviations; the scale is
    the largest that is left in any worker. Nothing is carried forward: what is sent is right on the average.

    When: in each step, all tensors but those of ``float_layers``; the paper leaves the last layer of large nets float.
    """

    key = "terngrad"

    clip: float | None = 2.5
    scale: Literal["max", "limit"] = "max"
    float_layers: list[str] = field(default_factory=list)

    def start(self, workers: Workers) -> None:
        """Start with all layers in codes."""
        super().start(workers)
        self.floats_: list[str] = []

    @hookimpl
    def prepare(self, stage: Stage) -> None:
        """Find the layers that stay float."""
        super().prepare(stage)
        self.floats_ = stage.layers(self.float_layers, f"{self.key}.float_layers")

    def code_of(self, player: Player, bucket: Bucket) -> Code | None:
        """Return the code, where the layer isn't left float."""
        return None if bucket.name.rpartition(".")[0] in self.floats_ else Ternary()

    def combined(self, player: Player, bucket: Bucket, code: Code, place: str) -> Tensor:
        """Return the mean of the ternary gradients."""
        values, limit = bucket.values, None
        if self.clip is not None:
            limit = self.clip * values.std(1, correction=0, keepdim=True)
            # Numbers that are all alike have no spread, but for what rounding makes of it: they are kept.
            alike = values.amax(1, keepdim=True) == values.amin(1, keepdim=True)
            limit = torch.where(alike, values.abs().amax(1, keepdim=True), limit)
            values = torch.maximum(torch.minimum(values, limit), -limit)

        own = values.abs().amax(1, keepdim=True) if limit is None or self.scale == "max" else limit
        shared = bucket.max(own)
        told, _ = self.told(bucket, code, values / torch.where(shared > 0, shared, 1.0))
        return told.mean(0) * shared
