from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from condensery import Stage, Weight, hookimpl
from condensery.nets import Coding
from condensery.recipe import derive_seed
from condensery_plugins.quantization.calibration import Plan
from condensery_plugins.quantization.powers import Powers, exponents, raised
from condensery_plugins.quantization.quantizer import Quantizer


class HeldPowers(Powers):
    """Holds some weights at a power of two or at zero; the others are as they come.

    What is held stays: its latent weight gets no gradient, and where weight decay and momentum move that isn't used.

    :param shape: of the tensor.
    :param code_bits: width of a code: one for zero, one for the sign, the rest for the power.
    :param whole: all weights are held.
    """

    key = "held-powers"
    held: Tensor
    levels: Tensor
    top: Tensor

    def __init__(self, shape: list[int], code_bits: int, whole: bool = False) -> None:
        super().__init__()
        self.code_bits, self.bits = code_bits, code_bits if whole else None
        self.register_buffer("held", torch.zeros(shape, dtype=torch.bool))
        self.register_buffer("levels", torch.zeros(shape))
        self.register_buffer("top", torch.zeros((), dtype=torch.int32))

    def start(self, value: Tensor) -> HeldPowers:
        """Set the largest power, 2^floor(log2(4/3 max|w|)) (eq. 2), and return self."""
        self.top = exponents(value.abs().max(), 0.75)
        return self

    def nearest(self, value: Tensor) -> Tensor:
        """Return the levels of some weights (eq. 4), of their shape.

        A level q above a level p takes the sizes from (p + q)/2 to 3q/2, the largest all that are above too, and zero
        what is below half of the smallest.
        """
        top = int(self.top)
        low = top + 1 - 2 ** (self.code_bits - 2)
        powers = raised(exponents(value, 0.75), low, top)
        return torch.where(value.abs() >= 2.0 ** (low - 1), value.sign() * powers, 0.0)

    def hold(self, value: Tensor, share: float, scores: Tensor) -> None:
        """Hold more weights at their levels, until as large a share of all is held.

        :param scores: of the weight's shape; those with the largest go first.
        """
        wanted = round(share * value.numel()) - int(self.held.sum())
        free = scores.masked_fill(self.held, float("-inf")).flatten()
        more = torch.zeros_like(self.held).flatten()
        more[free.argsort(descending=True, stable=True)[: max(wanted, 0)]] = True

        more = more.view_as(self.held)
        self.levels.copy_(torch.where(more, self.nearest(value), self.levels))
        self.held |= more
        self.bits = self.code_bits if bool(self.held.all()) else None

    def forward(self, value: Tensor) -> Tensor:
        """Return the levels where they are held, of the weight's shape; these get no gradient."""
        return torch.where(self.held, self.levels, value)

    def alive(self, latent: Tensor) -> Tensor:
        """Return which weights aren't held at zero."""
        return ~self.held | (self.levels != 0)

    def holds(self, final: Tensor) -> str | None:
        """Check what is held; a mask may have made it zero."""
        moved = int(((final != self.levels) & (final != 0) & self.held).sum())
        return f"{moved} weights left their level" if moved else None

    def config(self) -> dict[str, Any]:
        """Return shape and width, and whether all are held."""
        return {"shape": list(self.held.shape), "code_bits": self.code_bits, "whole": self.bits is not None}

    def code(self, coding: Coding, final: Tensor) -> Coding:
        """Return powers by code, once all weights are held."""
        return coding if self.bits is None else super().code(coding, final)


@dataclass(eq=False, kw_only=True)
class INQ(Quantizer):
    """Set a part of the weights to powers of two for good, largest first, and let the rest make up for it; and so on.

    Zhou, Yao, Guo, Xu, Chen: "Incremental Network Quantization: Towards Lossless CNNs with Low-Precision Weights", ICLR
    2017 [31]. Levels of b bits are 0 and the powers 2^n2 to 2^n1, n1 = floor(log2(4/3 max|w|)) of the float layer and
    n2 = n1 + 1 - 2^(b-2): of five bits eight powers, of two bits one. All layers take part, each by itself.

    When: ``parts`` of the weights follow each other, evenly spaced over the stage: the first half at once, then half of
    what is left each time, and all that is left of ``share`` when the stage ends. The paper starts the learning rates
    anew for each part: that is a round, with ``parts: 1`` and one ``share`` for each pass, whose last has no epochs.

    End: an artifact holds a code for each weight and the powers that occur; with a ``share`` below 1 the layer is
    stored as it is.

    Raises NotApplicable where a layer is quantized already.
    """

    key = "inq"

    leaves = frozenset({"quantized-weights"})
    counts_zeros = True

    bits: int = 5
    share: float = 1.0
    parts: int = 4
    partition: Literal["magnitude", "random"] = "magnitude"

    def plan(self) -> Plan:
        """Return that all weights have the same width."""
        return Plan(self.bits, None, self.bits)

    def weight_quantizer(self, weight: Weight, bits: int) -> HeldPowers:
        """Return what will hold a layer's weights, none of them yet."""
        return HeldPowers(list(weight.latent.shape), bits).start(weight.value)

    @hookimpl
    def prepare(self, stage: Stage) -> None:
        """Hold the first part; in later passes of a round there is one already."""
        if not self.held(stage):
            self.quantize(stage)
        self.done_ = 0
        self._hold(stage)

    @hookimpl
    def before_step(self, stage: Stage) -> None:
        """Hold the next part when it is due; the last one waits for the end."""
        total = stage.epochs * stage.steps_per_epoch
        if self.done_ < self.parts - 1 and stage.step * (self.parts - 1) >= self.done_ * total:
            self._hold(stage)

    @hookimpl
    def end_stage(self, stage: Stage) -> None:
        """Hold what is left of the share."""
        self.done_ = self.parts - 1
        self._hold(stage)

    def _hold(self, stage: Stage) -> None:
        """Hold one more part of each layer's weights."""
        self.done_ += 1
        share = self.share * (1 - 0.5**self.done_ if self.done_ < self.parts else 1)
        for weight in self.held(stage):
            self._own(weight).hold(weight.value, share, self._scores(stage, weight))

    def _own(self, weight: Weight) -> HeldPowers:
        """Return what holds a weight."""
        assert weight.stack is not None
        own = weight.stack.transforms[self.key]
        assert isinstance(own, HeldPowers)
        return own

    def _scores(self, stage: Stage, weight: Weight) -> Tensor:
        """Return by what the next part is chosen, of the weight's shape."""
        if self.partition == "magnitude":
            return weight.value.abs()
        seed = derive_seed(self.key, stage.seed, weight.name)
        drawn = torch.rand(weight.latent.shape, generator=torch.Generator().manual_seed(seed))
        return drawn.to(weight.latent.device)

    @hookimpl
    def report(self, stage: Stage) -> dict[str, float]:
        """Return the share of the weights that are held, of those that are zero, and of the net's parameters."""
        weights = self.held(stage)
        held = sum(int(self._own(weight).held.sum()) for weight in weights)
        count = sum(weight.latent.numel() for weight in weights)
        return {"held_percent": 100 * held / count, **super().report(stage)}
