from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from condensery.errors import UsageError
from condensery.hookspecs import hookimpl
from condensery.methods import Method
from condensery.stage import Stage
from condensery.steps import due_steps
from condensery_plugins.pruning.masks import keep_above, keep_largest, mask, sizes, sparsity_percent

REST = "*"
"""In ``quality``: every layer that isn't named."""


@dataclass(eq=False, kw_only=True)
class Magnitude(Method):
    """Set the smallest weights to zero and keep them there.

    Han, Pool, Tran, Dally: "Learning both Weights and Connections for Efficient Neural Networks", NIPS 2015; the
    first step of Deep Compression [89]. ``sparsity`` is the share of zeros among the weights of all convolutions and
    linear layers that it reaches, ranked together (``global``) or per layer (``local``); ``density`` sets the share
    kept by layer path. ``quality``, by layer path or ``*`` for all others, is the paper's own rule: what is smaller
    than that factor times the standard deviation of the layer's remaining weights goes. With ``steps`` > 1 share and
    factor rise evenly over the stage: step i of n reaches i/n of them, training goes on between. Biases are kept.
    """

    leaves = frozenset({"mask"})

    sparsity: float = 0.5
    scope: Literal["global", "local"] = "global"
    steps: int = 1
    skip_last: bool = False
    density: dict[str, float] = dataclasses.field(default_factory=dict)
    quality: dict[str, float] = dataclasses.field(default_factory=dict)
    index_bits: int | None = None

    @hookimpl
    def prepare(self, stage: Stage) -> None:
        """Prune for the first time, and plan when to prune again."""
        paths = [w.path for w in stage.weights()]
        for setting, given in (("density", set(self.density)), ("quality", set(self.quality) - {REST})):
            unknown = given - set(paths)
            if unknown:
                raise UsageError(f"magnitude.{setting}: no layer {min(unknown)!r}; there are {', '.join(paths[:8])}")
        both = set(self.density) & set(self.quality)
        if both:
            raise UsageError(f"magnitude: layer {min(both)!r} has a density and a quality; say one of them")
        self.due_ = due_steps(stage, self.steps)
        self.done_ = 0
        self._prune(stage)

    @hookimpl
    def before_step(self, stage: Stage) -> None:
        """Prune again when the next step is due."""
        while self.due_ and stage.step >= self.due_[0]:
            self.due_ = self.due_[1:]
            self._prune(stage)

    def _prune(self, stage: Stage) -> None:
        self.done_ += 1
        share = self.done_ / self.steps
        weights = {w.name: w for w in stage.weights()}
        if self.skip_last:
            last = stage.edges()[1]
            weights = {n: w for n, w in weights.items() if w.path != last}
        keep: dict[str, Tensor] = {}
        rest: dict[str, Tensor] = {}
        for name, weight in weights.items():
            scores, factor = sizes(weight), self.quality.get(weight.path, self.quality.get(REST))
            if weight.path in self.density:
                keep |= keep_largest({name: scores}, (1 - self.density[weight.path]) * share, scope="global")
            elif factor is not None:
                keep[name] = keep_above(weight, factor * share)
            else:
                rest[name] = scores
        keep |= keep_largest(rest, self.sparsity * share, scope=self.scope) if rest else {}
        for name, weight in weights.items():
            mask(stage, weight, keep[name], index_bits=self.index_bits)

    @hookimpl
    def report(self, stage: Stage) -> dict[str, float]:
        """Return the share of zeros reached."""
        return {"sparsity_percent": sparsity_percent(stage.weights())}
