from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from condensery.contract import hookimpl
from condensery.errors import UsageError
from condensery.nets import Weight
from condensery.run import Stage
from condensery_plugins.pruning.masks import keep_above, keep_largest, mask, sizes, sparsity_percent
from condensery_plugins.pruning.refusals import refuse_empty, refuse_nothing
from condensery_plugins.pruning.stepwise import InSteps

REST = "*"
"""In ``quality``: every layer that isn't named."""


@dataclass(eq=False, kw_only=True)
class Magnitude(InSteps):
    """Set the smallest weights to zero and keep them there.

    Han, Pool, Tran, Dally: "Learning both Weights and Connections for Efficient Neural Networks", NIPS 2015; the
    first step of Deep Compression [89]. ``sparsity`` is the share of zeros among the weights of all convolutions and
    linear layers that it reaches, ranked together (``global``) or per layer (``local``); ``density`` sets the share
    kept by layer path. ``quality``, by layer path or ``*`` for all others, is the paper's own rule: what is smaller
    than that factor times the standard deviation of the layer's remaining weights goes. With ``steps`` > 1 share and
    factor rise evenly over the stage: step i of n reaches i/n of them, training goes on between. Biases are kept.
    What would leave nothing of a layer is refused: when the stage starts all that is asked for, later each step.
    """

    key = "magnitude"

    sparsity: float = 0.5
    scope: Literal["global", "local"] = "global"
    skip_last: bool = False
    density: dict[str, float] = dataclasses.field(default_factory=dict)
    quality: dict[str, float] = dataclasses.field(default_factory=dict)
    index_bits: int | None = None

    def __post_init__(self) -> None:
        """Refuse settings with which nothing goes."""
        if not any([self.sparsity, *(1 - kept for kept in self.density.values()), *self.quality.values()]):
            raise UsageError(
                f"magnitude.sparsity must be > 0 and < 1 unless density or quality takes weights, got {self.sparsity:g}"
            )

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
        if not self.density and not self.quality:
            sizes = [w.latent.numel() for w in self._weights(stage)]
            refuse_nothing(stage, "magnitude", "sparsity", self.sparsity, sizes, unit="weight", scope=self.scope)
        if self.steps > 1:
            self._keep(stage, 1.0)
        self.start(stage)

    def reach(self, stage: Stage) -> None:
        """Hold what goes at the part of shares and factors that is due at zero."""
        keep = self._keep(stage, self.done_ / self.steps)
        for weight in self._weights(stage):
            mask(stage, weight, keep[weight.name], index_bits=self.index_bits)

    def _weights(self, stage: Stage) -> list[Weight]:
        last = stage.edges()[1] if self.skip_last else None
        return [w for w in stage.weights() if w.path != last]

    def _keep(self, stage: Stage, share: float) -> dict[str, Tensor]:
        """Return what stays of each weight when a share of all that is asked for goes.

        :raises UsageError: if nothing would stay of a layer.
        """
        keep: dict[str, Tensor] = {}
        rest: list[Weight] = []
        for weight in self._weights(stage):
            path, factor = weight.path, self.quality.get(weight.path, self.quality.get(REST))
            if path in self.density:
                kept = self.density[path]
                keep |= keep_largest({weight.name: sizes(weight)}, (1 - kept) * share, scope="global")
                asked = f"magnitude: density {kept:g}"
                refuse_empty(stage, asked, [weight], keep, by="count", hint="ask for more")
            elif factor is not None:
                keep[weight.name] = keep_above(weight, factor * share)
                refuse_empty(stage, f"magnitude: quality {factor:g}", [weight], keep, by="value")
            else:
                rest.append(weight)
        if rest:
            keep |= keep_largest({w.name: sizes(w) for w in rest}, self.sparsity * share, scope=self.scope)
            ranked = self.scope == "global"
            refuse_empty(
                stage,
                f"magnitude: sparsity {self.sparsity:g}",
                rest,
                keep,
                by="rank" if ranked else "count",
                hint="ask for less, or scope local" if ranked else "ask for less",
            )
        return keep

    @hookimpl
    def report(self, stage: Stage) -> dict[str, float]:
        """Return the share of zeros reached."""
        return {"sparsity_percent": sparsity_percent(stage.weights())}
