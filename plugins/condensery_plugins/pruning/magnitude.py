from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from condensery import Stage, UsageError, Weight, hookimpl
from condensery_plugins.pruning.masks import Sizes, keep_above, keep_largest, mask, sparsity
from condensery_plugins.pruning.refusals import refuse_empty, refuse_nothing
from condensery_plugins.pruning.stepwise import InSteps


@dataclass(eq=False, kw_only=True)
class Magnitude(InSteps):
    """Set the smallest weights to zero and keep them there.

    Han, Pool, Tran, Dally: "Learning both Weights and Connections for Efficient Neural Networks", NIPS 2015; the
    first step of Deep Compression [89]. ``sparsity`` is the share of zeros among the weights of all layers, ranked
    together (``global``) or per layer (``local``). Biases are kept, and the layers in ``skip``.

    Layers may have a rule of their own, by ``density`` or ``quality``. ``density`` is the share of weights kept.
    ``quality`` is the paper's rule: what is smaller than that factor times the standard deviation of the layer's
    remaining weights goes.

    *When*: as the stage starts. With ``steps`` above 1 shares and factors rise evenly over the stage: step i of n
    reaches i/n of them, training goes on between.

    *Raises* UsageError where nothing would stay of a layer: all that is asked for is looked at as the stage starts, and
    again in each step.
    """

    key = "magnitude"

    sparsity: float = 0.5
    scope: Literal["global", "local"] = "global"
    skip: list[str] = dataclasses.field(default_factory=list)
    density: dict[str, float] = dataclasses.field(default_factory=dict)
    quality: dict[str, float] = dataclasses.field(default_factory=dict)
    index_bits: int | None = None

    def __post_init__(self) -> None:
        """Refuse settings with which nothing goes, and a layer with two rules."""
        if not any([self.sparsity, *(1 - kept for kept in self.density.values()), *self.quality.values()]):
            raise UsageError(
                f"{self.key}.sparsity must be > 0 and < 1 unless density or quality takes weights,"
                f" got {self.sparsity:g}"
            )
        both = set(self.density) & set(self.quality)
        if both:
            raise UsageError(f"{self.key}: layer {min(both)!r} has a density and a quality; say one of them")

    @hookimpl
    def prepare(self, stage: Stage) -> None:
        """Prune for the first time, and plan when to prune again."""
        self.skipped_ = stage.layers(self.skip, f"{self.key}.skip")

        # One choice for both settings, so that the name that fits a layer best gives its rule.
        rules = {name: name for name in [*self.density, *self.quality]}
        chosen = stage.layers(rules, f"{self.key}.density or quality")
        self.density_ = {path: self.density[name] for path, name in chosen.items() if name in self.density}
        self.quality_ = {path: self.quality[name] for path, name in chosen.items() if name in self.quality}

        if not rules:
            numbers = [w.latent.numel() for w in self._weights(stage)]
            refuse_nothing(stage, self.key, "sparsity", self.sparsity, numbers, unit="weight", scope=self.scope)
        if self.steps > 1:
            self._keep(stage, 1.0)
        self.start(stage, self.steps)

    def reach(self, stage: Stage) -> None:
        """Hold at zero what the part of shares and factors that is due takes."""
        keep = self._keep(stage, self.done_ / self.steps)
        for weight in self._weights(stage):
            mask(stage, weight, keep[weight.name], index_bits=self.index_bits)

    def _weights(self, stage: Stage) -> list[Weight]:
        return [w for w in stage.weights() if w.path not in self.skipped_]

    def _keep(self, stage: Stage, share: float) -> dict[str, Tensor]:
        """Return what stays of each weight when a share of all that is asked for goes: bool, by name.

        :raises UsageError: if nothing would stay of a layer.
        """
        keep: dict[str, Tensor] = {}
        ranked: list[Weight] = []

        for weight in self._weights(stage):
            if weight.path in self.density_:
                density = self.density_[weight.path]
                keep |= keep_largest(Sizes([weight]), (1 - density) * share, scope="local")
                asked = f"{self.key}: density {density:g}"
                refuse_empty(stage, asked, [weight], keep, by="count", hint="ask for more")
            elif weight.path in self.quality_:
                factor = self.quality_[weight.path]
                keep[weight.name] = keep_above(weight, factor * share)
                refuse_empty(stage, f"{self.key}: quality {factor:g}", [weight], keep, by="value")
            else:
                ranked.append(weight)

        if ranked:
            keep |= keep_largest(Sizes(ranked), self.sparsity * share, scope=self.scope)
            self._refuse(stage, ranked, keep)
        return keep

    def _refuse(self, stage: Stage, weights: list[Weight], keep: dict[str, Tensor]) -> None:
        """Refuse a sparsity that leaves nothing of a layer."""
        asked = f"{self.key}: sparsity {self.sparsity:g}"
        if self.scope == "global":
            refuse_empty(stage, asked, weights, keep, by="rank", hint="ask for less, or scope local")
        else:
            refuse_empty(stage, asked, weights, keep, by="count")

    @hookimpl
    def report(self, stage: Stage) -> dict[str, float]:
        """Return the share of zeros reached, in the layers that can be pruned and in the whole net."""
        return sparsity(stage, stage.weights())
