from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from condensery.run import Bucket, Player
from condensery_plugins.quantization.gradient_codes.codes import Code, StochasticLevels
from condensery_plugins.quantization.gradient_codes.gradient_code import GradientCode


@dataclass(eq=False, kw_only=True)
class QSGD(GradientCode):
    """Send each gradient as one of a few levels of its bucket's scale, drawn so that the mean is right.

    Alistarh and others: "QSGD: Communication-Efficient SGD via Gradient Quantization and Encoding",
    NIPS 2017 [38]. Of ``bits`` one is the sign, so that there are 2^(bits - 1) - 1 levels of each sign: 2 bits are
    ternary. Nothing is carried forward.

    When: in each step, tensors of ``smallest`` numbers or more; the others are sent as floats.
    """

    key = "qsgd"

    bits: int = 4
    bucket: int = 512
    norm: Literal["max", "l2"] = "max"
    smallest: int = 256

    def code_of(self, player: Player, bucket: Bucket) -> Code | None:
        """Return the code of a tensor that is large enough."""
        if bucket.shape.numel() < self.smallest:
            return None
        return StochasticLevels(2 ** (self.bits - 1) - 1, self.bucket, self.norm)

    def combined(self, player: Player, bucket: Bucket, code: Code, place: str) -> Tensor:
        """Return the mean of what the workers sent."""
        return self.told(bucket, code, bucket.values)[0].mean(0)
