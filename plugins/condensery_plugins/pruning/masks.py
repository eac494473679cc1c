"""Masks, which hold some weights at zero for good, and the choice of the weights that go."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from condensery import Stage, Transform, Weight
from condensery.nets import MASK, Coding, attached, own_parameters
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
        """Return the value with zeros where the mask holds it."""
        # Not a product: an infinite number under the mask gives zero too.
        return torch.where(self.keep, value, torch.zeros((), dtype=value.dtype, device=value.device))

    def alive(self, latent: Tensor) -> Tensor:
        """Return the mask."""
        return self.keep

    def holds(self, final: Tensor) -> str | None:
        """Check that every masked entry is zero."""
        left = int(((final != 0) & ~self.keep).sum())
        return f"{left} masked entries are not zero" if left else None

    def config(self) -> dict[str, Any]:
        """Return the shape, and the width of indices where one is set."""
        shape = {"shape": list(self.keep.shape)}
        return shape if self.index_bits is None else {**shape, "index_bits": self.index_bits}

    def code(self, coding: Coding, final: Tensor) -> Coding:
        """Return the coding with its zeros left out, if that is smaller."""
        return sparse(coding, final, self.index_bits)


def mask(stage: Stage, weight: Weight, keep: Tensor, *, index_bits: int | None = None) -> None:
    """Hold a weight of the student at zero where ``keep`` is false; what an earlier mask holds stays at zero too.

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
    stage.attach(weight.name, "mask", made)
    made.keep.copy_(keep)


def sparsity_percent(weights: Sequence[Weight]) -> float:
    """Return the percentage of entries that masks hold at zero, over all weights together."""
    alive = [w.alive for w in weights]
    return 100 * (1 - sum(int(a.sum()) for a in alive) / sum(a.numel() for a in alive))


def sparsity(stage: Stage, weights: Sequence[Weight]) -> dict[str, float]:
    """Return what a report says of zeros: their share in the student's pruned weights, and in the whole net.

    :param weights: that the method prunes.
    """
    own, whole = sparsity_percent(weights), net_sparsity_percent(stage.student.module)
    return {"sparsity_percent": own, "net_sparsity_percent": whole, **stage.reached(weights)}


def net_sparsity_percent(net: nn.Module) -> float:
    """Return the percentage of a net's parameters that transforms hold at zero, whichever method put them there."""
    held = 0
    # Several transforms on one tensor may hold the same entries: each tensor counts once.
    for target in {item.target for item in attached(net)}:
        path, _, tensor = target.rpartition(".")
        if ":" not in target:  # not an activation
            held += int((~Weight(path, net.get_submodule(path), tensor).alive).sum())
    return 100 * held / sum(p.numel() for p in own_parameters(net).values())


def sizes(weight: Weight) -> Tensor:
    """Return the absolute value of each entry, minus infinity where a mask holds it already; of the weight's shape."""
    return torch.where(weight.alive, weight.latent.detach().abs(), float("-inf"))


class Sizes(Mapping[str, Tensor]):
    """The sizes of several weights by name, worked out when one is asked for: together they take as much as the net."""

    def __init__(self, weights: Iterable[Weight]) -> None:
        self._weights = {weight.name: weight for weight in weights}

    def __getitem__(self, name: str) -> Tensor:
        """Return one weight's, see :func:`sizes`."""
        return sizes(self._weights[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)


def keep_largest(scores: Mapping[str, Tensor], remove: float, *, scope: str) -> dict[str, Tensor]:
    """Return what stays when the smallest scores go: by name, bool of the scores' shape.

    As many go as the share says, rounded; of equal scores the first.

    :param scores: by name, of any shape; minus infinity marks what has gone already, which counts as removed.
    :param remove: share, 0 to 1.
    :param scope: ``global`` ranks all names together, ``local`` each by itself.
    """
    if scope == "local":
        return {n: keep_largest({n: s}, remove, scope="global")[n] for n, s in scores.items()}
    counts, kinds = zip(*((score.numel(), score.dtype) for score in scores.values()), strict=True)
    gone = round(remove * sum(counts))
    if not gone:
        return {n: s > float("-inf") for n, s in scores.items()}

    numbers = torch.empty(sum(counts), dtype=torch.float64 if torch.float64 in kinds else torch.float32)
    for part, score in zip(torch.split(numbers, list(counts)), scores.values(), strict=True):
        part.copy_(score.detach().flatten())

    # Selected and not sorted: all below the edge go, and of those that equal it the first ones.
    flat = numbers.numpy()
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
    """Return which entries are not smaller than a factor times the deviation: bool, of the weight's shape.

    The deviation is the standard one of the entries that no mask holds; what one holds is below it.
    """
    scores = sizes(weight)
    kept = weight.latent.detach()[scores >= 0]
    return scores >= factor * kept.std(correction=0) if kept.numel() else scores >= 0
