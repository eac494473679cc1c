from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from condensery import Method, NotApplicable, Stage, hookimpl
from condensery.contract import Words
from condensery.run import Bucket, Player
from condensery_plugins.quantization.calibration import refuse_quantized
from condensery_plugins.quantization.eight_bits import OFFSET, EightBits, Kind, decoded, encoded


@dataclass(eq=False, kw_only=True)
class Dettmers8Bit(Method):
    """Send gradients, and what passes between dense layers, as 8-bit numbers with a sign, a decade and a fraction.

    Dettmers: "8-Bit Approximations for Parallelism in Deep Learning", ICLR 2016 [22]. ``gradients`` is its data
    parallelism: each of the recipe's ``workers`` sends its own gradients in codes, with their largest absolute value,
    and all average what they decode. ``activations`` is its model parallelism: the inputs of dense layers, other than
    the net's first layer, go through the codes, and so do the gradients that come back. ``weights`` holds the weights
    at such numbers too, which the paper does not.

    When: in each step. Without ``weights`` the net itself is not compressed, and is an ordinary one in the end.

    End: with ``weights`` an artifact holds a code of 8 bits for each, and the numbers that occur in a layer.

    Raises NotApplicable if there is no dense layer for ``activations``, or where ``weights`` are quantized already.
    """

    key = "dettmers-8bit"

    kind: Kind = "tree"
    offset: int = OFFSET
    gradients: bool = True
    activations: bool = False
    weights: bool = False

    def words(self) -> Words:
        """Return that only weights are held, where they are."""
        floats, held = frozenset({"float-weights"}), frozenset({"quantized-weights", "palette"})
        return Words(floats, held, floats) if self.weights else Words(self.needs, self.leaves, self.removes)

    @hookimpl
    def prepare(self, stage: Stage) -> None:
        """Let what passes between dense layers, and weights, go through the codes."""
        self.error_, self.count_ = torch.zeros((), dtype=torch.float64), 0

        if self.activations:
            first = stage.edges()[0]
            paths = [path for path in stage.weights(kinds=(nn.Linear,)).paths if path != first]
            if not paths:
                raise NotApplicable(self.key, "no dense layer stands behind another layer: set activations to false")
            for path in paths:
                stage.attach(f"{path}:input", self.key, EightBits(self.kind, self.offset, both_ways=True), keep=False)

        for weight in stage.weights() if self.weights else ():
            refuse_quantized(self.key, weight)
            stage.attach(weight.name, self.key, EightBits(self.kind, self.offset))

    @hookimpl
    def exchange(self, stage: Stage, player: Player, bucket: Bucket) -> Tensor | None:
        """Return the mean of all workers' gradients, as they come out of the codes."""
        if not self.gradients:
            return None
        codes, scale = encoded(bucket.values, self.kind, self.offset)
        codes, scale = bucket.gather(codes), bucket.gather(scale)
        received = decoded(codes, scale, self.kind, self.offset).to(bucket.values.dtype)

        self._count(bucket, received)
        return received.mean(0)

    def _count(self, bucket: Bucket, received: Tensor) -> None:
        """Add up the mean relative error of what isn't zero."""
        sizes = bucket.values.abs()
        errors = (bucket.own(received) - bucket.values).abs() / torch.where(sizes > 0, sizes, 1)
        self.error_ = self.error_.to(errors.device) + errors.sum() / (sizes > 0).sum().clamp_min(1)
        self.count_ += 1

    @hookimpl
    def report(self, stage: Stage) -> dict[str, float]:
        """Return the mean relative error of gradients."""
        held = [w for w in stage.weights() if w.stack is not None and self.key in w.stack.transforms]
        return {
            "gradient_error_percent": 100 * float(self.error_) / max(1, self.count_),
            **(stage.reached(held) if self.weights else {}),
        }
