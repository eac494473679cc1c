from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from condensery import Batch, NotApplicable, Stage, hookimpl, straight_through
from condensery.nets import Coding, Weights
from condensery.run import Player, due_steps
from condensery_plugins.codecs.palette import Palette
from condensery_plugins.quantization.calibration import plan_bits, refuse_quantized
from condensery_plugins.quantization.corrections import reestimate_norms
from condensery_plugins.quantization.quantizer import Edges, FixedWidth
from condensery_plugins.quantization.signs import Signed, sign

Levels = Literal["binary", "ternary", "one-shift", "two-shifts"]
SIZES: dict[Levels, tuple[int, ...]] = {
    "binary": (1,),
    "ternary": (0, 1),
    "one-shift": (0, 1, 2),
    "two-shifts": (0, 1, 2, 4),
}
"""The sizes of the levels, to be multiplied by a scale and a sign."""
ALTERNATIONS = 20
"""How often a projection alternates between scale and levels, unless it is stable before; about five are needed."""


def nearest(value: Tensor, sizes: Sequence[int]) -> Tensor:
    """Return the nearest level of each entry, a size with a sign, of the entries' shape; halfway the smaller size."""
    known = torch.tensor(sizes, dtype=value.dtype, device=value.device)
    halfway = (known[1:] + known[:-1]) / 2
    return known[torch.bucketize(value.abs().contiguous(), halfway)] * sign(value)


def project(value: Tensor, sizes: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return the scale a and the levels Q, so that a Q is near a tensor: each in turn is the best for the other.

    The scale starts at the mean size, as with a large one all levels would be 0 and stay so.

    :returns: shape ``()``, and of the tensor's shape; of a tensor that is all zero the scale is 0.
    """
    scale, levels = value.abs().mean(), torch.zeros_like(value)
    for _ in range(ALTERNATIONS):
        found = nearest(value / torch.where(scale > 0, scale, 1.0), sizes)
        if torch.equal(found, levels):
            break
        levels = found
        scale = (value * levels).sum() / levels.square().sum()
    return scale, levels


class ScaledPowers(Signed):
    """A scale that stands still, times 0 or powers of two with a sign; gradients go to the latent weight as they are.

    :param sizes: of the levels: those of :data:`SIZES`.
    """

    key = "scaled-powers"
    bits: int
    scale: Tensor

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        self.sizes = tuple(sizes)
        self.bits = {"binary": 1, "ternary": 2}.get(_name(self.sizes), 3)
        self.register_buffer("scale", torch.ones(()))

    def start(self, value: Tensor) -> ScaledPowers:
        """Take the scale that a tensor is projected with, and return self."""
        self.scale = project(value, self.sizes)[0].to(self.scale.dtype)
        return self

    def forward(self, value: Tensor) -> Tensor:
        """Return the nearest levels times the scale, of the tensor's shape; all is 0 with the scale 0."""
        with torch.no_grad():
            levels = nearest(value / torch.where(self.scale > 0, self.scale, 1.0), self.sizes) * self.scale
        return straight_through(levels, value)

    def holds(self, final: Tensor) -> str | None:
        """Check that all values are levels, or zeros of a mask."""
        known = self.scale * torch.tensor([0, *self.sizes], device=final.device)
        wrong = int((~torch.isin(final.abs(), known)).sum())
        return f"{wrong} values are no level" if wrong else None

    def config(self) -> dict[str, Any]:
        """Return the sizes."""
        return {"sizes": list(self.sizes)}

    def code(self, coding: Coding, final: Tensor) -> Coding:
        """Return signs in one bit, ternary codes in 1.6, others as places in a codebook."""
        return super().code(coding, final) if max(self.sizes) == 1 else Coding(Palette(final))


def _name(sizes: tuple[int, ...]) -> str:
    return next(name for name, known in SIZES.items() if known == sizes)


@dataclass(eq=False, kw_only=True)
class ADMMExtremelyLowBit(FixedWidth):
    """Train float weights W that are drawn, more and more, to a scale times few powers of two, and end there.

    Leng, Dou, Li, Zhu, Jin: "Extremely Low Bit Neural Network: Squeeze the Last Bit Out with ADMM", AAAI 2018 [31].
    min f(W) so that each layer is a Q, Q of the levels: with G the nearest such weights and U a dual, all of W's shape,
    each round trains W, then sets G = a Q nearest to W + U, then adds W - G to U. No gradient passes a rounding.

    Loss: task + rho/2 ||W - G + U||^2.

    When: each step is one of extragradient: on one batch, W goes ``ahead`` times the learning rate down the gradient;
    the gradient there is what W then moves by, from where it was, through the recipe's optimizer. ``ahead: 0`` is the
    plain step, with one backward pass. The stage has ``rounds`` rounds, evenly spread.

    End: the weights become G, batch normalizations average anew over ``samples`` examples, and an artifact holds a
    code for each weight and a scale for each layer. The report says how far W was from G.

    Raises NotApplicable where a layer is quantized already, and if no layer is left between two float ones.
    """

    key = "admm-extremely-low-bit"

    counts_zeros = True

    levels: Levels = "ternary"
    rho: float = 1e-3
    rounds: int = 10
    ahead: float = 1.0
    edges: Edges = "quantized"
    samples: int = 2048

    @hookimpl
    def prepare(self, stage: Stage) -> None:
        """Look at the layers; G and U are made with the first step, when all methods have cut what they cut."""
        for weight in self._weights(stage):
            refuse_quantized(self.key, weight)
        self.targets_: dict[str, Tensor] = {}
        self.duals_: dict[str, Tensor] = {}

    def _weights(self, stage: Stage) -> Weights:
        """Return the weights that are drawn to levels.

        :raises NotApplicable: if there are none.
        """
        plan = plan_bits(stage, self.plan().weights, self.plan().edges)
        if not plan:
            raise NotApplicable(self.key, "the net has no layers between the first and the last, which stay float")
        return Weights(w for w in stage.weights() if w.path in plan)

    @hookimpl
    def before_step(self, stage: Stage) -> None:
        """Project and move the dual when a round is over."""
        if not self.targets_:
            for weight in self._weights(stage):
                self.duals_[weight.name] = torch.zeros_like(weight.latent)
                self.targets_[weight.name] = self._projected(weight.latent.detach())
            return

        for _ in range(due_steps(stage, self.rounds).count(stage.step)):
            for weight in self._drawn(stage):
                dual, latent = self.duals_[weight.name], weight.latent.detach()
                self.targets_[weight.name] = self._projected(latent + dual)
                dual.add_(latent - self.targets_[weight.name])

    def _projected(self, value: Tensor) -> Tensor:
        """Return G, the scale times the levels nearest to a tensor."""
        scale, levels = project(value, SIZES[self.levels])
        return scale * levels

    def _drawn(self, stage: Stage) -> Weights:
        """Return the weights that have a G and a U."""
        return Weights(w for w in stage.weights() if w.name in self.targets_)

    @hookimpl
    def training_step(self, stage: Stage, batch: Batch) -> bool:
        """Take the gradient ahead of the weights, and step from where they were."""
        student = stage.student
        if self.ahead:
            stage.gradients(batch, [student])
            start = self._go_ahead(student)
            stage.gradients(batch)
            with torch.no_grad():
                for parameter, value in start:
                    parameter.copy_(value)
        else:
            stage.gradients(batch)

        for player in stage.training:
            stage.update(player)
        return True

    def _go_ahead(self, player: Player) -> list[tuple[Tensor, Tensor]]:
        """Move parameters down their gradients, which are cleared, and return each with its value before."""
        assert player.optimizer is not None
        start = []
        with torch.no_grad():
            for group in player.optimizer.param_groups:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        start.append((parameter, parameter.clone()))
                        parameter.sub_(parameter.grad, alpha=self.ahead * float(group["lr"]))
        player.optimizer.zero_grad(set_to_none=True)
        return start

    @hookimpl
    def after_backward(self, stage: Stage) -> None:
        """Add rho (W - G + U) to the gradients."""
        for weight in self._drawn(stage):
            if weight.latent.grad is not None:
                pull = weight.latent.detach() - self.targets_[weight.name] + self.duals_[weight.name]
                weight.latent.grad.add_(pull, alpha=self.rho)

    @hookimpl
    def end_stage(self, stage: Stage) -> None:
        """Hold the weights at the last G, and let the norms follow."""
        gaps, sizes = 0.0, 0.0
        for weight in self._weights(stage):
            value, dual = weight.latent.detach(), self.duals_.get(weight.name)
            if dual is not None and dual.shape == value.shape:  # a cut that just happened leaves no dual that fits
                value = value + dual
            made = ScaledPowers(SIZES[self.levels]).start(value)

            held = made(value)
            gaps += float((weight.latent.detach() - held).square().sum())
            sizes += float(weight.latent.detach().square().sum())
            weight.latent.data.copy_(held)
            stage.attach(weight.name, self.key, made)
        self.gap_ = 100 * (gaps / sizes) ** 0.5 if sizes else 0.0
        self.norms_ = reestimate_norms(stage, stage.sample(self.samples))

    @hookimpl
    def report(self, stage: Stage) -> dict[str, float]:
        """Return how far W was from G, in percent of ||W||, the share of zeros, and that of the net's parameters."""
        return {"gap_percent": self.gap_, "reestimated_norms_count": float(self.norms_), **super().report(stage)}
