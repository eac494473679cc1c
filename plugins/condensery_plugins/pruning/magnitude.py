from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

from condensery.errors import UsageError
from condensery.hookspecs import hookimpl
from condensery.methods import Method
from condensery.stage import Stage
from condensery_plugins.pruning.masks import keep_largest, mask, sizes, sparsity_percent


@dataclass(eq=False, kw_only=True)
class Magnitude(Method):
    """Set the smallest weights to zero and keep them there.

    Han, Pool, Tran, Dally: "Learning both Weights and Connections for Efficient Neural Networks", NIPS 2015; the
    first step of Deep Compression [89]. ``sparsity`` is the share of zeros among the weights of all convolutions and
    linear layers that it reaches, ranked together (``global``) or per layer (``local``). With ``steps`` > 1 it rises
    evenly over the stage: step i of n reaches i/n of it, training goes on between. Biases are kept.
    """

    leaves = frozenset({"mask"})

    sparsity: float = 0.5
    scope: Literal["global", "local"] = "global"
    steps: int = 1
    skip_last: bool = False
    density: dict[str, float] = dataclasses.field(default_factory=dict)

    @hookimpl
    def prepare(self, stage: Stage) -> None:
        """Prune for the first time, and plan when to prune again."""
        unknown = set(self.density) - {w.path for w in stage.weights()}
        if unknown:
            known = ", ".join(w.path for w in stage.weights()[:8])
            raise UsageError(f"magnitude.density: no layer {min(unknown)!r}; there are {known}")
        total = max(1, stage.epochs * stage.steps_per_epoch)
        self.due_ = [round(total * i / self.steps) for i in range(1, self.steps)]
        self.done_ = 0
        self._prune(stage)

    @hookimpl
    def before_step(self, stage: Stage) -> None:
        """Prune again when the next step is due."""
        if self.due_ and stage.step >= self.due_[0]:
            self.due_ = self.due_[1:]
            self._prune(stage)

    def _prune(self, stage: Stage) -> None:
        self.done_ += 1
        share = self.done_ / self.steps
        weights = {w.name: w for w in stage.weights()}
        if self.skip_last:
            last = stage.edges()[1]
            weights = {n: w for n, w in weights.items() if w.path != last}
        scores = {n: sizes(w) for n, w in weights.items()}
        given = {n: 1 - self.density[w.path] for n, w in weights.items() if w.path in self.density}
        rest = {n: s for n, s in scores.items() if n not in given}
        keep = keep_largest(rest, self.sparsity * share, scope=self.scope) if rest else {}
        for name, sparsity in given.items():
            keep |= keep_largest({name: scores[name]}, sparsity * share, scope="global")
        for name, weight in weights.items():
            mask(stage, weight, keep[name])

    @hookimpl
    def report(self, stage: Stage) -> dict[str, float]:
        """Return the share of zeros reached."""
        return {"sparsity_percent": sparsity_percent(stage.weights())}
