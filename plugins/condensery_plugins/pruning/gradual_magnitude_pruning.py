from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from condensery import Method, NotApplicable, Stage, UsageError, Weight, hookimpl
from condensery.run import rate_factor
from condensery.surgery import is_depthwise
from condensery_plugins.pruning.masks import Sizes, keep_largest, mask, sizes, sparsity
from condensery_plugins.pruning.refusals import refuse_empty, refuse_nothing

LEAST_UPDATES = 10
"""Updates of the masks in a ramp, after the one at its start, where it has as many steps."""


@dataclass(eq=False, kw_only=True)
class GradualMagnitudePruning(Method):
    """Prune more and more of the smallest weights of each layer while it trains, fast at first and slowly in the end.

    Zhu, Gupta: "To prune, or not to prune: exploring the efficacy of pruning for model compression", 2017 [21].
    s_t = s_f + (s_i - s_f) * (1 - (t - t0) / (n * dt))^3 for t = t0, t0 + dt, ..., t0 + n * dt, with s_f ``sparsity``,
    s_i ``initial``, dt ``every`` (steps) and t0 ``start``, a share of the stage's steps. A masked weight gets no
    gradient and stays at zero. The layers in ``skip`` stay dense, and so do depthwise convolutions.

    *When*: dt is less than ``every`` where n would be below ten, because with few updates the curve is a staircase of
    large jumps. Prune while the learning rate is high enough to recover: see ``learning_rate_at_end_percent``.

    *End*: the ramp ends at ``end``, a share of the stage's steps, or at most dt earlier. Then the masks are fixed and
    training goes on.

    *Raises* UsageError for a share that leaves nothing of a layer, NotApplicable where no layer is left to prune.
    """

    key = "gradual-magnitude-pruning"

    leaves = frozenset({"mask"})

    sparsity: float = 0.8
    initial: float = 0.0
    start: float = 0.0
    end: float = 0.75
    every: int = 100
    skip: list[str] = dataclasses.field(default_factory=lambda: ["first"])

    def __post_init__(self) -> None:
        """Refuse a ramp that falls: masks only grow."""
        if self.initial > self.sparsity:
            raise UsageError(f"{self.key}.initial must be <= sparsity {self.sparsity:g}, got {self.initial:g}")

    @hookimpl
    def prepare(self, stage: Stage) -> None:
        """Attach masks and plan their updates; without any steps prune at once."""
        self.skipped_ = stage.layers(self.skip, f"{self.key}.skip")
        layers = self._layers(stage)
        if not layers:
            raise NotApplicable(self.key, "no layer is left to prune: all are depthwise convolutions or skipped")
        self._refuse(stage, layers)

        total = stage.epochs * stage.steps_per_epoch
        self.start_ = round(min(self.start, self.end) * total)
        span = round(self.end * total) - self.start_
        self.every_ = max(1, min(self.every, span // LEAST_UPDATES))
        self.updates_ = span // self.every_
        self.done_ = 0
        ends = (self.start_ + self.updates_ * self.every_) / max(1, total)
        self.rate_at_end_ = 100 * rate_factor(stage.train.schedule, ends)

        for weight in layers:  # all masks from the start: nothing is attached while an optimizer runs
            mask(stage, weight, weight.alive)
        if total == 0:
            self._prune(stage)

    def _refuse(self, stage: Stage, layers: list[Weight]) -> None:
        """Refuse a share that takes nothing of any layer, or leaves nothing of one."""
        numbers = [w.latent.numel() for w in layers]
        refuse_nothing(stage, self.key, "sparsity", self.sparsity, numbers, unit="weight")
        final = keep_largest(Sizes(layers), self.sparsity, scope="local")
        refuse_empty(stage, f"{self.key}: sparsity {self.sparsity:g}", layers, final, by="count")

    @hookimpl
    def before_step(self, stage: Stage) -> None:
        """Update the masks when it is due."""
        if self.done_ <= self.updates_ and stage.step >= self.start_ + self.done_ * self.every_:
            self._prune(stage)

    @hookimpl
    def end_stage(self, stage: Stage) -> None:
        """Make the last update if it falls on the stage's end."""
        if self.done_ == self.updates_:
            self._prune(stage)

    def _prune(self, stage: Stage) -> None:
        """Hold at zero what the ramp takes at the update that is due."""
        share = self.done_ / self.updates_ if self.updates_ else 1.0
        wanted = ramp(share, self.initial, self.sparsity)
        for weight in self._layers(stage):
            score = {weight.name: sizes(weight)}
            mask(stage, weight, keep_largest(score, wanted, scope="local")[weight.name])
        self.done_ += 1

    def _layers(self, stage: Stage) -> list[Weight]:
        return [w for w in stage.weights() if w.path not in self.skipped_ and not is_depthwise(w.module)]

    @hookimpl
    def report(self, stage: Stage) -> dict[str, float]:
        """Return the share of zeros in the layers and the net, the updates, and the learning rate when they ended."""
        return {
            **sparsity(stage, self._layers(stage)),
            "updates_count": self.done_,
            "learning_rate_at_end_percent": self.rate_at_end_,
        }


def ramp(share: float, initial: float, final: float) -> float:
    """Return the sparsity when a share of the ramp is over (equation 1)."""
    return final + (initial - final) * (1 - share) ** 3
