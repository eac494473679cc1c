from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from condensery.run import Bucket, Player
from condensery_plugins.quantization.gradient_codes.codes import Code, StochasticLevels
from condensery_plugins.quantization.gradient_codes.gradient_code import GradientCode


@dataclass(eq=False, kw_only=True)
class ECQSGD(GradientCode):
    """Send gradients as QSGD does, plus a share of all errors made so far, which fade.

    Wu and others: "Error Compensated Quantized SGD and its Applications to Large-scale Distributed
    Optimization", ICML 2018 [38]. A worker keeps h, at first 0; it sends q = Q(g + alpha h), and then h becomes
    beta h + (g - q). The error is that of the plain gradient g and not of what was coded: an error that is made once
    fades with the factor beta - alpha. It is stable where alpha^2 gamma + (beta - alpha)^2 < 1, gamma being the bound
    of the relative variance of Q: sqrt(d) / levels for the l2 norm of d numbers. So coarse levels take a small alpha.

    When: in each step, all tensors.
    """

    key = "ecq-sgd"

    levels: int = 4
    alpha: float = 0.2
    beta: float = 0.9
    norm: Literal["max", "l2"] = "max"
    bucket: int = 0

    def code_of(self, player: Player, bucket: Bucket) -> Code | None:
        """Return the code, the same for each tensor."""
        return StochasticLevels(self.levels, self.bucket, self.norm)

    def combined(self, player: Player, bucket: Bucket, code: Code, place: str) -> Tensor:
        """Return the mean of what the workers sent."""
        errors = self.kept(place, bucket.values)
        told, own = self.told(bucket, code, bucket.values + self.alpha * errors)
        self.kept_[place] = self.beta * errors + (bucket.values - own)
        return told.mean(0)
