from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from condensery.contract import hookimpl
from condensery.nets import Weight
from condensery.run import Stage
from condensery.tasks import Batch, head
from condensery_plugins.pruning.curvature import curvature_rows, evaluating, loss_of, unflatten
from condensery_plugins.pruning.inverse_hessian import InverseHessian, Surgery
from condensery_plugins.pruning.masks import mask
from condensery_plugins.pruning.stepwise import Stepwise


@dataclass(eq=False, kw_only=True)
class OptimalBrainSurgeon(Stepwise):
    """Delete parameters one by one and correct all others each time, by the inverse of the loss's Hessian.

    Hassibi, Stork: "Second order derivatives for network pruning: Optimal Brain Surgeon", NIPS 1992 [13]. Saliency of
    parameter q: w_q^2 / (2 [H^-1]_qq); its deletion moves the others by -w_q / [H^-1]_qq H^-1 e_q. H^-1 starts at
    I / ``alpha`` and takes in one row for each of ``samples`` training examples and each output: the output's
    derivative, weighted with the square root of the loss's curvature (``gauss-newton``). ``sampled`` takes one row an
    example, the outputs' summed with random signs; ``fisher`` one, the loss's own gradient. H^-1 is worked out anew
    after ``refresh`` deletions, 0: once a step; between, the deleted row and column are taken out exactly. A net with
    more than ``whole`` parameters gets a block-diagonal H^-1: each tensor by itself, in blocks of ``block``.
    ``sparsity`` is the share of zeros that it reaches, in ``steps`` over the stage; with ``limit`` above 0 it stops
    where the least saliency is more than this share of the loss, as the paper does.
    What would leave no weight of a layer is refused.
    """

    key = "obs"

    hessian: Literal["gauss-newton", "sampled", "fisher"] = "sampled"
    samples: int = 64
    alpha: float = 1e-6
    whole: int = 4000
    block: int = 64
    refresh: int = 0
    limit: float = 0.0

    @hookimpl
    def prepare(self, stage: Stage) -> None:
        """Prune for the first time, and plan when to prune again."""
        self.increase_ = 0.0
        super().prepare(stage)

    @hookimpl
    def report(self, stage: Stage) -> dict[str, float]:
        """Return the share of zeros reached, and the increase of the loss that the saliencies predicted."""
        return {**super().report(stage), "predicted_loss_increase": self.increase_}

    def prune(self, stage: Stage, weights: list[Weight], share: float) -> None:
        """Delete parameters until a share of them is gone, or the next one would cost too much."""
        batches = stage.sample(self.samples)
        alive = sum(int(w.alive.sum()) for w in weights)
        total = sum(w.latent.numel() for w in weights)
        left = alive + round(share * total) - total
        later = round(self.sparsity * total) - round(share * total) if self.done_ == 1 else 0
        while left > 0:
            wanted = min(left, self.refresh or left)
            left -= wanted
            if self._delete(stage, weights, batches, wanted, 0 if left else later) < wanted:
                break

    def _delete(self, stage: Stage, weights: list[Weight], batches: list[Batch], wanted: int, later: int) -> int:
        """Delete up to ``wanted`` parameters with one inverse Hessian; returns how many went.

        :param later: how many the steps after the first take: what these would leave is looked at, and not done.
        """
        sizes = self._sizes([w.latent.numel() for w in weights])
        inverse = InverseHessian(sizes, self.alpha, sum(b.size for b in batches), stage.device)
        for row in curvature_rows(stage, weights, batches, self.hessian):
            inverse.add(row)
        limit = self.limit * self._loss(stage, batches) if self.limit else float("inf")
        latents = torch.cat([w.latent.detach().flatten() for w in weights])
        surgery = Surgery(inverse, latents, torch.cat([w.alive.flatten() for w in weights]))
        gone = 0
        while gone < wanted and surgery.step(limit):
            gone += 1
        self.increase_ += surgery.increase
        values, keep = (unflatten(flat.to(stage.device), weights) for flat in surgery.flat())
        self.refuse(stage, weights, dict(zip([w.name for w in weights], keep, strict=True)))
        for weight, value, stays in zip(weights, values, keep, strict=True):
            with torch.no_grad():
                weight.latent.copy_(torch.where(weight.alive, value, weight.latent))
            mask(stage, weight, stays)
        if later:
            while later and surgery.step(limit):
                later -= 1
            final = unflatten(surgery.flat()[1].to(stage.device), weights)
            self.refuse(stage, weights, dict(zip([w.name for w in weights], final, strict=True)))
        return gone

    def _sizes(self, tensors: list[int]) -> list[int]:
        """Return how many parameters each block has: one for all, or blocks that end where a tensor does."""
        if sum(tensors) <= self.whole:
            return [sum(tensors)]
        return [min(self.block, size - start) for size in tensors for start in range(0, size, self.block)]

    @staticmethod
    def _loss(stage: Stage, batches: list[Batch]) -> float:
        net = stage.student.module
        with evaluating(net), torch.no_grad():
            sums = [b.size * float(loss_of(stage, head(stage.task.outputs(net, b)), b)) for b in batches]
        return sum(sums) / sum(b.size for b in batches)
