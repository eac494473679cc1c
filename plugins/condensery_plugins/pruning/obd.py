from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from condensery import Stage, Weight
from condensery_plugins.pruning.curvature import hutchinson_diagonal, row_diagonal
from condensery_plugins.pruning.curvature_backprop import backprop_diagonal
from condensery_plugins.pruning.masks import keep_largest, mask
from condensery_plugins.pruning.stepwise import Stepwise


@dataclass(eq=False, kw_only=True)
class OptimalBrainDamage(Stepwise):
    """Delete the parameters whose deletion raises the loss least, by the diagonal of its second derivatives.

    LeCun, Denker, Solla: "Optimal Brain Damage", NIPS 1989 [12]. Saliency of parameter k: h_kk u_k^2 / 2, ranked over
    the whole net, anew in each step. ``sparsity`` is the share of parameters that go.

    ``samples`` training examples give the second derivatives h. Of the ways to h, ``backprop`` is the paper's, for
    convolutions, linear layers and units that act on one number each. ``gauss-newton`` is what it approximates, for any
    net, at a backward pass for each example and output; ``sampled`` is the same in the mean, at one pass for each
    example. ``fisher`` takes squared gradients of the loss. ``hutchinson`` estimates the whole Hessian's diagonal from
    ``probes`` random directions. ``identity`` takes h = 1, which ranks by size, to compare.

    *When*: as the stage starts. With ``steps`` above 1 also while it trains: step i of n reaches i/n of ``sparsity``.

    *Raises* UsageError where no weight of a layer would be left, or where the loss has no second derivatives by the
    net's outputs; NotApplicable where ``backprop`` meets an operation that it has no rule for.
    """

    key = "obd"

    hessian: Literal["backprop", "gauss-newton", "sampled", "fisher", "hutchinson", "identity"] = "sampled"
    samples: int = 64
    probes: int = 8

    def prune(self, stage: Stage, weights: list[Weight], share: float) -> None:
        """Hold the least salient parameters at zero."""
        diagonal = self.diagonal(stage, weights)
        if stage.dry and not any(bool(h.any()) for h in diagonal):
            return  # its few examples rank nothing; the real stage looks at all of them

        scores = {}
        for weight, curvature in zip(weights, diagonal, strict=True):
            # An estimate may come out negative, where the whole Hessian's entry may not be.
            saliency = curvature.abs() * weight.latent.detach().double() ** 2 / 2
            scores[weight.name] = torch.where(weight.alive, saliency, float("-inf"))

        keep = keep_largest(scores, share, scope="global")
        final = keep_largest(scores, self.sparsity, scope="global") if self.done_ == 1 else keep
        self.refuse(stage, weights, final)

        for weight in weights:
            mask(stage, weight, keep[weight.name])

    def diagonal(self, stage: Stage, weights: list[Weight]) -> list[Tensor]:
        """Return h for each weight, of its shape."""
        batches = stage.sample(self.samples)
        if self.hessian == "backprop":
            return backprop_diagonal(stage, weights, batches, method=self.key)
        if self.hessian == "hutchinson":
            return hutchinson_diagonal(stage, weights, batches, self.probes)
        if self.hessian == "identity":
            return [torch.ones_like(w.latent) for w in weights]
        return row_diagonal(stage, weights, batches, self.hessian, method=self.key)
