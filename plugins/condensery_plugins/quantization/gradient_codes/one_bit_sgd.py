from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from condensery import Stage, Weight, hookimpl
from condensery.nets import weights_of
from condensery.run import Bucket, Player, Workers
from condensery_plugins.quantization.gradient_codes.codes import ByOutput, Code, ColumnMeans
from condensery_plugins.quantization.gradient_codes.gradient_code import GradientCode, without_decay

EPS = 1e-8


@dataclass(eq=False, kw_only=True)
class OneBitSGD(GradientCode):
    """Send a sign for each gradient and two means for each column, and add what was lost to the next gradient.

    Seide and others: "1-Bit Stochastic Gradient Descent and its Application to Data-Parallel Distributed
    Training of Speech DNNs", Interspeech 2014 [37]. Each worker codes its gradient plus its residual; the sum of what
    they sent is scaled (AdaGrad, if asked) and takes momentum, both in float; plus a residual of its own it is coded a
    second time, and that is the step. So momentum is part of the method: the optimizer is plain SGD whatever the
    recipe names, with the recipe's rate, and weight decay is part of the gradient.

    When: from ``cold_start``, a share of the stage, on. Tensors of one dimension stay float.
    """

    key = "one-bit-sgd"

    momentum: float = 0.9
    adagrad: bool = False
    column: Literal["input", "output"] = "input"
    cold_start: float = 0.0

    def start(self, workers: Workers) -> None:
        """Start with codes, where no stage has a cold start."""
        super().start(workers)
        self.coding_ = True
        self._weights: dict[str, dict[str, Weight]] = {}

    @hookimpl
    def prepare(self, stage: Stage) -> None:
        """Find the outputs of all weights, those of classes that plugins offer among them."""
        super().prepare(stage)
        self._weights = {name: {w.name: w for w in stage.weights(name)} for name in stage.players}

    @hookimpl
    def optimizer(self, player: Player, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Return plain SGD: what it gets has its weight decay and momentum already."""
        return torch.optim.SGD(without_decay(groups))

    @hookimpl
    def before_step(self, stage: Stage) -> None:
        """Tell whether the cold start is over."""
        self.coding_ = stage.progress >= self.cold_start

    def code_of(self, player: Player, bucket: Bucket) -> Code | None:
        """Return a code by the columns of y = W x: by inputs, or by outputs where they are meant."""
        if len(bucket.shape) < 2 or not self.coding_:
            return None
        if player.name not in self._weights:  # outside of a run
            self._weights[player.name] = {w.name: w for w in weights_of(player.module)}
        weight = self._weights[player.name].get(bucket.name)

        numbers = bucket.shape.numel()
        if weight is None or weight.axes[0] == 0:
            return self._means(bucket.shape[0], numbers)
        rows = weight.rows(torch.empty(bucket.shape, device="meta")).shape
        return ByOutput(self._means(rows[0], numbers), weight, bucket.shape, rows)

    def _means(self, outputs: int, numbers: int) -> Code:
        """Return the code of a matrix that lies row by row, one for each output."""
        by_output = self.column == "output"
        return ColumnMeans(outputs if by_output else numbers // outputs, across=not by_output)

    def combined(self, player: Player, bucket: Bucket, code: Code, place: str) -> Tensor:
        """Return the second code of the sum of all first ones."""
        given = bucket.values + self.kept(place, bucket.values)
        told, own = self.told(bucket, code, given)
        self.kept_[place] = given - own

        # Who owns the sum codes it for all; here each worker does it alike, from the codes of all.
        step = self._stepped(told.mean(0) + self.decay(player, bucket), place)[None]
        step = step + self.common(f"{place}/residual", step)
        again = code.decode(code.encode(step, bucket.uniform), step.shape[1])
        self.common_[f"{place}/residual"] = step - again
        return again[0]

    def combined_floats(self, player: Player, bucket: Bucket, place: str) -> Tensor:
        """Return the step of a tensor that isn't coded."""
        return self._stepped(bucket.mean(bucket.values) + self.decay(player, bucket), place)

    def _stepped(self, gradient: Tensor, place: str) -> Tensor:
        """Return a gradient after AdaGrad and momentum."""
        if self.adagrad:
            squares = self.common(f"{place}/squares", gradient) + gradient.square()
            self.common_[f"{place}/squares"] = squares
            gradient = gradient / (squares.sqrt() + EPS)
        moved = self.common(f"{place}/momentum", gradient) * self.momentum + gradient
        self.common_[f"{place}/momentum"] = moved
        return moved
