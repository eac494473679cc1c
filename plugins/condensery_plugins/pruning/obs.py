from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from condensery import Batch, Stage, Weight, hookimpl
from condensery_plugins.pruning.curvature import counted, curvature_rows, evaluating, loss_of, unflatten
from condensery_plugins.pruning.inverse_hessian import InverseHessian, Surgery
from condensery_plugins.pruning.masks import mask
from condensery_plugins.pruning.stepwise import Stepwise


@dataclass(eq=False, kw_only=True)
class OptimalBrainSurgeon(Stepwise):
    """Delete parameters one by one and correct all others each time, by the inverse of the loss's Hessian.

    Hassibi, Stork: "Second order derivatives for network pruning: Optimal Brain Surgeon", NIPS 1992 [13]. Saliency of
    parameter q: w_q^2 / (2 [H^-1]_qq); its deletion moves the others by -w_q / [H^-1]_qq H^-1 e_q. ``sparsity`` is the
    share of parameters that go; with ``limit`` above 0 it stops where the least saliency is more than this share of the
    loss, as the paper does.

    H^-1 starts at I / ``alpha`` and takes in rows for each of ``samples`` training examples. By ``gauss-newton`` these
    are one for each output: its derivative, weighted with the square root of the loss's curvature. ``sampled`` takes
    one, the outputs' summed with random signs; ``fisher`` one, the loss's own gradient. H^-1 is worked out anew after
    ``refresh`` deletions, 0: once a step; between, the deleted row and column are taken out exactly. A net with more
    than ``whole`` parameters gets a block-diagonal H^-1: each tensor by itself, in blocks of ``block``.

    *When*: as the stage starts. With ``steps`` above 1 also while it trains: step i of n reaches i/n of ``sparsity``.

    *Raises* UsageError where no weight of a layer would be left, or where the loss has no second derivatives by the
    net's outputs.
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
        """Delete up to ``wanted`` parameters with one inverse Hessian; return how many went.

        :param later: how many the steps after the first take: what these would leave is looked at, and not done.
        """
        limit = self.limit * self._loss(stage, batches) if self.limit else float("inf")
        surgery = self._surgery(stage, weights, batches)
        gone = 0
        while gone < wanted and surgery.step(limit):
            gone += 1
        self.increase_ += surgery.increase

        values, keep = (unflatten(flat.to(stage.device), weights) for flat in surgery.flat())
        self._refuse_kept(stage, weights, keep)
        for weight, value, stays in zip(weights, values, keep, strict=True):
            with torch.no_grad():
                weight.latent.copy_(torch.where(weight.alive, value, weight.latent))
            mask(stage, weight, stays)

        if later:
            while later and surgery.step(limit):
                later -= 1
            self._refuse_kept(stage, weights, unflatten(surgery.flat()[1].to(stage.device), weights))
        return gone

    def _surgery(self, stage: Stage, weights: list[Weight], batches: list[Batch]) -> Surgery:
        """Return the parameters with the inverse Hessian at their present values."""
        sizes = self._sizes([w.latent.numel() for w in weights])
        inverse = InverseHessian(sizes, self.alpha, sum(b.size for b in batches), stage.device)
        for row in curvature_rows(stage, weights, batches, self.hessian, method=self.key):
            inverse.add(row)

        latents = torch.cat([w.latent.detach().flatten() for w in weights])
        return Surgery(inverse, latents, torch.cat([w.alive.flatten() for w in weights]))

    def _refuse_kept(self, stage: Stage, weights: list[Weight], keep: list[Tensor]) -> None:
        """Refuse what would leave no weight of a layer.

        :param keep: which entries of each weight stay: bool, of its shape.
        """
        self.refuse(stage, weights, {w.name: stays for w, stays in zip(weights, keep, strict=True)})

    def _sizes(self, tensors: list[int]) -> list[int]:
        """Return how many parameters each block has: one for all, or blocks that end where a tensor does."""
        if sum(tensors) <= self.whole:
            return [sum(tensors)]
        return [min(self.block, size - start) for size in tensors for start in range(0, size, self.block)]

    @staticmethod
    def _loss(stage: Stage, batches: list[Batch]) -> float:
        """Return the mean loss over some examples."""
        net = stage.student.module
        with evaluating(net), torch.no_grad():
            there = counted(stage.task, batches)
            sums = [weight * float(loss_of(stage, stage.task.outputs(net, b), b)) for b, weight in there]
        return sum(sums) / sum(weight for _, weight in there)
