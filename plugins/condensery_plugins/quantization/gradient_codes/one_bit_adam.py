from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from condensery import Stage, hookimpl
from condensery.run import Bucket, Player
from condensery_plugins.quantization.gradient_codes.codes import Code, ScaledSign
from condensery_plugins.quantization.gradient_codes.gradient_code import GradientCode


class WarmAdam(torch.optim.Optimizer):
    """Adam without bias correction and with decoupled weight decay, whose second moment can be frozen.

    :param beta1: of the momentum, ``beta2`` of the second moment.
    :param floor: share of the root mean of a tensor's second moment below which none counts once they are frozen.
    """

    def __init__(self, groups: list[dict[str, Any]], beta1: float, beta2: float, eps: float, floor: float) -> None:
        super().__init__(groups, {"beta1": beta1, "beta2": beta2, "eps": eps, "floor": floor, "frozen": False})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Take one step."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if "momentum" not in state:
                    state["momentum"], state["squares"] = torch.zeros_like(parameter), torch.zeros_like(parameter)

                state["momentum"].lerp_(parameter.grad, 1 - group["beta1"])
                if not group["frozen"]:
                    state["squares"].lerp_(parameter.grad.square(), 1 - group["beta2"])
                root = state["squares"].sqrt()
                if group["frozen"]:
                    root = torch.maximum(root, group["floor"] * state["squares"].mean().sqrt())
                step = state["momentum"] / (root + group["eps"])
                parameter.sub_(step + group["weight_decay"] * parameter, alpha=group["lr"])


@dataclass(eq=False, kw_only=True)
class OneBitAdam(GradientCode):
    """Take Adam's steps from momenta of one bit: its second moment, by which they are divided, is frozen by then.

    Tang and others: "1-bit Adam: Communication Efficient Large-Scale Training
    with Adam's Convergence Speed", ICML 2021 [39]. In ``warmup``, a share of the stage, it is Adam in floats. Then each
    worker adds its gradient to the common momentum, codes that plus its residual, and the mean of the codes, plus a
    common residual, is coded again: that is the momentum from then on. All numbers of a tensor have one size in it, so
    that those with a tiny second moment would step without bound: none counts below ``floor`` of the root mean of its
    tensor, and a number whose second moment is 0 stays where it is.

    The optimizer is its own, with the recipe's rate and weight decay, without bias correction.

    When: in each step, all tensors.
    """

    key = "one-bit-adam"

    warmup: float = 0.2
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    floor: float = 0.1
    scale: Literal["l1", "l2"] = "l1"

    @hookimpl
    def optimizer(self, player: Player, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Return Adam with a second moment that can be frozen."""
        return WarmAdam(groups, self.beta1, self.beta2, self.eps, self.floor)

    @hookimpl
    def before_step(self, stage: Stage) -> None:
        """Freeze the second moments when the warm-up is over."""
        frozen = stage.progress >= self.warmup
        for player in stage.training:
            assert player.optimizer is not None
            for group in player.optimizer.param_groups:
                group["frozen"] = frozen

    def code_of(self, player: Player, bucket: Bucket) -> Code | None:
        """Return the scaled sign, once the second moments stand still."""
        at = self.placed(player, bucket.name)
        assert player.optimizer is not None
        begun = "momentum" in player.optimizer.state.get(at.parameter, {})
        return ScaledSign(self.scale) if begun and at.group["frozen"] else None

    def combined(self, player: Player, bucket: Bucket, code: Code, place: str) -> Tensor:
        """Return the gradient after which the momentum is the second code."""
        at = self.placed(player, bucket.name)
        assert player.optimizer is not None
        state = player.optimizer.state[at.parameter]
        before: Tensor = state["momentum"].flatten()
        given = self.beta1 * before + (1 - self.beta1) * bucket.values + self.kept(place, bucket.values)
        told, own = self.told(bucket, code, given)
        self.kept_[place] = given - own

        # Who serves the sum codes it for all; here each worker does it alike, from the codes of all.
        mean = told.mean(0, keepdim=True) + self.common(place, given[:1])
        again = code.decode(code.encode(mean, bucket.uniform), mean.shape[1])
        self.common_[place] = mean - again
        momentum = torch.where(state["squares"].flatten() > 0, again[0], 0.0)
        return (momentum - self.beta1 * before) / (1 - self.beta1)
