from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import torch
from torch import Tensor, nn

from condensery import Method, NotApplicable, Stage, Transform, Weight, hookimpl
from condensery.nets import BATCH_NORMS, CONVS, LINEARS, attached
from condensery_plugins.pruning.filters import embeds_patches, norms_behind

NORMS = (*BATCH_NORMS, nn.GroupNorm, nn.LayerNorm)


def threshold_factor(rate: float) -> float:
    """Return tau / mean|g| for normal gradients of which a share is to lie below tau.

    sigma = sqrt(pi / 2) * mean|g| and tau = PhiInverse((1 + rate) / 2) * sigma.

    :param rate: the share, 0 to 1.
    """
    return NormalDist().inv_cdf((1 + rate) / 2) * math.sqrt(math.pi / 2)


def prune(gradient: Tensor, tau: Tensor) -> Tensor:
    """Return a gradient whose entries below tau are 0, or tau with their sign with probability |g| / tau.

    The expectation of each entry stays what it was; ``nan`` stays, so that it is noticed.

    :param gradient: of any shape.
    :param tau: scalar, in the gradient's unit.
    """
    tau = tau.to(gradient.dtype)  # It is rounded first, or else the expectation would move.
    size = gradient.abs()
    promoted = size.float() > torch.rand_like(gradient, dtype=torch.float32) * tau.float()
    return torch.where(size < tau, promoted * tau * gradient.sign(), gradient)


class _Backward(torch.autograd.Function):
    """Lets a tensor pass and hands what comes back to a pruner."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, pruner: GradientPruner) -> Tensor:
        ctx.pruner = pruner
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.pruner.receive(gradient), None


class GradientPruner(Transform):
    """Lets activations pass, prunes the gradient that comes back, and counts what is left of it.

    :param rate: share of entries that should lie below the threshold; 0 only counts.
    :param window: passes whose thresholds predict the next one; nothing is pruned or counted before.
    """

    key = "gradient-pruner"
    past: Tensor
    passes: Tensor
    entries: Tensor
    before: Tensor
    after: Tensor

    def __init__(self, rate: float, window: int) -> None:
        super().__init__()
        self.rate, self.window = rate, window
        self.factor = threshold_factor(rate)
        self.register_buffer("past", torch.zeros(window))
        self.register_buffer("passes", torch.zeros((), dtype=torch.int64))
        for name in ("entries", "before", "after"):
            self.register_buffer(name, torch.zeros((), dtype=torch.float64))

    def forward(self, value: Tensor) -> Tensor:
        """Return the value as it is; it may have any shape."""
        if not (self.training and torch.is_grad_enabled() and value.requires_grad):
            return value
        return _Backward.apply(value, self)  # type: ignore[no-any-return]

    def receive(self, gradient: Tensor) -> Tensor:
        """Return the pruned gradient, and put this pass's own threshold in the queue.

        :param gradient: of the value's shape.
        """
        # A tensor and no bool, as the counts below: to read it would mean waiting for the GPU in every pass.
        full = self.passes >= self.window

        pruned = gradient
        if self.rate:
            pruned = prune(gradient, torch.where(full, self.past.mean(), 0.0))
            tau = self.factor * gradient.abs().mean(dtype=torch.float32)
            self.past.copy_(torch.cat([self.past[1:], tau[None]]))

        self.entries += full * gradient.numel()
        self.before += full * gradient.count_nonzero()
        self.after += full * pruned.count_nonzero()
        self.passes += 1
        return pruned

    def resize(self, take: Any) -> None:
        """Nothing in it has the activation's shape."""

    def config(self) -> dict[str, Any]:
        """Return rate and window."""
        return {"rate": self.rate, "window": self.window}


@dataclass(eq=False, kw_only=True)
class ActivationGradientPruningDBTD(Method):
    """Prune small activation gradients at random in every backward pass, so that training itself takes less work.

    Ye, Dai, Luo, Guo, Qi, Yang, Chen: "Accelerating CNN Training by Pruning Activation Gradients", ECCV 2020 [20].
    Distribution-based threshold determination: gradients are close to normal, so that a share ``rate`` lies below
    tau = PhiInverse((1 + rate) / 2) * sqrt(pi / 2) * mean|g|. Entries below become 0 or +-tau at random, their
    expectation kept. tau is predicted: the mean of the last ``window`` passes, for each layer by itself.

    In front of a norm the gradient that reaches the convolution is pruned, which both its products use; else the one it
    hands on. ``linear`` prunes what reaches linear layers too, but for the last; the paper has convolutions only.

    When: in every backward pass but the first ``window`` ones. The forward pass and the optimizer stay as they are.

    End: nothing of it outlives the stage. Where no pass came after the first ``window`` ones, nothing was pruned or
    counted: the report has no figures of it, and the run names what was left out.

    Raises NotApplicable on a net without convolutions, or with only the one that embeds a Transformer's patches, unless
    ``linear`` is set.
    """

    key = "activation-gradient-pruning-dbtd"

    rate: float = 0.9
    window: int = 4
    linear: bool = False

    @hookimpl
    def prepare(self, stage: Stage) -> None:
        """Attach the pruners, and plain counters where only the work is to be known."""
        convolutions = stage.weights(kinds=CONVS)
        if not self.linear and all(embeds_patches(w.module) for w in convolutions):
            why = "no convolution but the one that embeds patches" if convolutions else "no convolution"
            raise NotApplicable(self.key, f"the net has {why}; linear=true prunes the gradients of linear layers")

        first, last = stage.edges()
        norms = norms_behind(stage, [w.path for w in convolutions], NORMS)
        self._pruners: dict[str, GradientPruner] = {}
        self._costs: dict[str, int] = {}

        for weight in convolutions:
            path = weight.path
            self._attach(stage, f"{path}:output", self.rate if path in norms else 0.0)
            if path not in norms and path != first:
                self._attach(stage, f"{path}:input", self.rate)
        for weight in stage.weights(kinds=LINEARS):
            pruned = self.linear and weight.path != last
            self._attach(stage, f"{weight.path}:output", self.rate if pruned else 0.0)

        # A first layer's input needs no gradient, so that only its weights' product is computed.
        for weight in [*convolutions, *stage.weights(kinds=LINEARS)]:
            self._costs[weight.path] = products(weight, 1 if weight.path == first else 2)

    def _attach(self, stage: Stage, target: str, rate: float) -> None:
        """Put a pruner on an activation until the stage ends, under a name of its own beside another copy's."""
        pruner = GradientPruner(rate, self.window)
        taken = [a for a in attached(stage.student.module) if a.target == target and a.name.startswith(pruner.key)]
        stage.attach(target, f"{pruner.key}-{len(taken) + 1}", pruner, keep=False)
        self._pruners[target] = pruner

    @hookimpl
    def end_stage(self, stage: Stage) -> None:
        """Say where nothing was pruned because the stage was too short."""
        for target, pruner in self._pruners.items():
            if pruner.rate and not pruner.entries:
                passes = "1 backward pass" if self.window == 1 else f"{self.window} backward passes"
                why = f"nothing was pruned: its threshold comes from {passes}, and none came after that"
                stage.left_out[target] = why

    @hookimpl
    def report(self, stage: Stage) -> dict[str, float]:
        """Return the share of non-zeros before and after, for each layer and overall, and the work of backward saved.

        The work is that of the products of weight and input gradients, against all of it dense; an entry of an output
        gradient that is zero saves its share of both, and of the first layer's one. What was never counted is left out.
        """
        counted = {target: pruner for target, pruner in self._pruners.items() if pruner.rate and pruner.entries}
        if not counted:
            return {}
        report = {f"density_percent.{t.replace(':', '.')}": _density([p]) for t, p in counted.items()}
        report["density_percent"] = _density(list(counted.values()))
        report["density_before_percent"] = _density(list(counted.values()), "before")

        work = {path: self._pruners[f"{path}:output"] for path in self._costs}
        dense = sum(self._costs[path] * float(pruner.entries) for path, pruner in work.items())
        left = sum(self._costs[path] * float(pruner.after) for path, pruner in work.items())
        report["backward_macs_saved_percent"] = 100 * (1 - left / dense)
        return report


def _density(pruners: list[GradientPruner], count: str = "after") -> float:
    """Return the share of non-zeros among the entries that some pruners counted, in percent.

    :param pruners: that have counted some.
    :param count: ``after`` pruning or ``before`` it.
    """
    return 100 * sum(float(getattr(p, count)) for p in pruners) / sum(float(p.entries) for p in pruners)


def products(weight: Weight, gradients: int) -> int:
    """Return the multiply-accumulates of backward that one entry of a layer's output gradient takes part in.

    :param gradients: 2 for those of weight and input, 1 for a first layer, whose input needs none.
    """
    return gradients * weight.latent[0].numel()
