from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from condensery import hookimpl
from condensery.run import Bucket, Player
from condensery_plugins.quantization.gradient_codes.codes import Code, ScaledSign
from condensery_plugins.quantization.gradient_codes.gradient_code import GradientCode, without_decay

SMALLEST_RATE = 1e-12


@dataclass(eq=False, kw_only=True)
class EFSignSGD(GradientCode):
    """Step by the sign of each gradient times the mean size of its tensor, and keep what that leaves for the next step.

    Karimireddy and others: "Error Feedback Fixes SignSGD and other Gradient Compression Schemes", ICML 2019
    [39]. A worker codes p = rate * gradient + e, and e becomes p less its code: the rate is inside, so that what is
    kept stays right when the rate changes. Weight decay is part of the gradient. There is no momentum, and the
    optimizer is plain SGD whatever the recipe names. Without ``feedback`` it is the paper's scaled sign, which fails.

    When: in each step, all tensors.
    """

    key = "ef-signsgd"

    feedback: bool = True

    @hookimpl
    def optimizer(self, player: Player, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Return plain SGD that leaves weight decay to :meth:`exchange`."""
        return torch.optim.SGD(without_decay(groups))

    def code_of(self, player: Player, bucket: Bucket) -> Code | None:
        """Return the scaled sign, one scale a tensor."""
        return ScaledSign()

    def combined(self, player: Player, bucket: Bucket, code: Code, place: str) -> Tensor:
        """Return the mean of what the workers sent, as a gradient: the optimizer multiplies it with the rate again."""
        rate: float = max(self.placed(player, bucket.name).group["lr"], SMALLEST_RATE)
        given = rate * (bucket.values + self.decay(player, bucket)) + self.kept(place, bucket.values)

        told, own = self.told(bucket, code, given)
        if self.feedback:
            self.kept_[place] = given - own
        return told.mean(0) / rate

    def combined_floats(self, player: Player, bucket: Bucket, place: str) -> Tensor:
        """Return the mean gradient with weight decay."""
        return bucket.mean(bucket.values) + self.decay(player, bucket)
