"""What the pruning methods share: a mask that stays on a tensor, and choosing what goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from condensery.nets import MASK, Coding, Transform, Weight
from condensery.run import Stage
from condensery_plugins.codecs.sparse import sparse


class Mask(Transform):
    """Holds some entries of a tensor at zero; they get no gradient.

    :param shape: of the tensor.
    :param index_bits: of the relative indices in an artifact; ``None`` for the cheapest way to store zeros.
    """

    key = "mask"
    rank = MASK
    keep: Tensor

    def __init__(self, shape: Sequence[int], index_bits: int | None = None) -> None:
        super().__init__()
        self.index_bits = index_bits
        self.register_buffer("keep", torch.ones(tuple(shape), dtype=torch.bool))

    def forward(self, value: Tensor) -> Tensor:
        """Return the value with zeros; ``where`` and not a product, so that infinite latents give zeros too."""
        return torch.where(self.keep, value, torch.zeros((), dtype=value.dtype, device=value.device))

    def holds(self, final: Tensor) -> str | None:
        """Check that every masked entry is zero."""
        left = int((final[~self.keep] != 0).sum())
        return f"{left} masked entries are not zero" if left else None

    def config(self) -> dict[str, Any]:
        """Return the shape, and the width of indices where one is set."""
        shape = {"shape": list(self.keep.shape)}
        return shape if self.index_bits is None else {**shape, "index_bits": self.index_bits}

    def code(self, coding: Coding, final: Tensor) -> Coding:
        """Return the coding with its zeros left out, if that is smaller."""
        return sparse(coding, final, self.index_bits)


def mask(stage: Stage, weight: Weight, keep: Tensor, player: str = "student", *, index_bits: int | None = None) -> None:
    """Hold a weight at zero where ``keep`` is false; what an earlier mask holds stays at zero too.

    :param keep: bool, of the weight's shape.
    :param index_bits: see :class:`Mask`; ``None`` leaves an earlier mask's as they are.
    """
    stack = weight.stack
    for transform in stack.transforms.values() if stack is not None else ():
        if isinstance(transform, Mask):
            transform.keep &= keep
            transform.index_bits = transform.index_bits if index_bits is None else index_bits
            return
    made = Mask(weight.latent.shape, index_bits)
    stage.attach(weight.name, "mask", made, player)
    made.keep.copy_(keep)


def sparsity_percent(weights: Sequence[Weight]) -> float:
    """Return the share of entries that masks hold at zero, over all weights together."""
    alive = [w.alive for w in weights]
    return 100 * (1 - sum(int(a.sum()) for a in alive) / sum(a.numel() for a in alive))


def sizes(weight: Weight) -> Tensor:
    """Return the size of each entry, ``-inf`` where a mask holds it already."""
    return torch.where(weight.alive, weight.latent.detach().abs(), float("-inf"))


def keep_largest(scores: Mapping[str, Tensor], remove: float, *, scope: str) -> dict[str, Tensor]:
    """Return what stays when a share of the smallest scores goes, exactly as many as the share says.

    :param scores: by name; ``-inf`` marks what has gone already and counts as removed.
    :param remove: share, 0 to 1.
    :param scope: ``global`` ranks all names together, ``local`` each by itself.
    """
    if scope == "local":
        return {n: keep_largest({n: s}, remove, scope="global")[n] for n, s in scores.items()}
    numbers = torch.cat([s.detach().flatten() for s in scores.values()]).cpu()
    flat = (numbers if numbers.dtype == torch.float64 else numbers.float()).numpy()
    gone = round(remove * len(flat))
    if not gone:
        return {n: s > float("-inf") for n, s in scores.items()}

    # Selected and not sorted: all below the edge go, and of those that equal it the first ones.
    flat.partition(gone - 1)
    edge = float(flat[gone - 1])
    equal = gone - int(np.count_nonzero(flat[:gone] < edge))

    kept = {}
    for name, score in scores.items():
        row = score.detach().flatten()
        keep = row > edge
        ties = (row == edge).nonzero().flatten() if edge > float("-inf") else row.new_zeros(0, dtype=torch.long)
        keep[ties[equal:]] = True
        equal = max(equal - len(ties), 0)
        kept[name] = keep.view_as(score)
    return kept


def keep_above(weight: Weight, factor: float) -> Tensor:
    """Return what is not smaller than a factor times the standard deviation of the weights that no mask holds."""
    scores = sizes(weight)
    kept = weight.latent.detach()[scores >= 0]
    return scores >= factor * kept.std(correction=0) if kept.numel() else scores >= 0
