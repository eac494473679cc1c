"""The inverse of a Hessian, and the deletion of parameters by it, as Optimal Brain Surgeon does it.

The Hessian is a mean of outer products, parted into blocks along its diagonal.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class InverseHessian:
    """(alpha I + mean of x x')^-1, made by a correction of rank one for each row x.

    Parameters are numbered through and cut into blocks; curvature between two blocks is taken as zero. With a single
    block it is the whole inverse.

    :param sizes: how many parameters each block has, in order.
    :param alpha: the inverse starts at I / alpha.
    :param examples: how many examples the mean is over; each may give several rows.
    """

    def __init__(self, sizes: Sequence[int], alpha: float, examples: int, device: torch.device) -> None:
        self.examples = examples
        start = torch.eye(max(sizes), dtype=torch.float64, device=device) / alpha
        self.values = start.repeat(len(sizes), 1, 1)
        """The inverses, ``(blocks, block, block)``; what fills up blocks smaller than the largest never moves."""
        self.filled = torch.arange(max(sizes), device=device) < torch.tensor(sizes, device=device)[:, None]
        """Which places of ``(blocks, block)`` belong to a parameter; bool."""

    def blocks(self, flat: Tensor) -> Tensor:
        """Cut a number for each parameter, ``(parameters,)``, into ``(blocks, block)``, filled up with zeros."""
        return flat.new_zeros(self.filled.shape).masked_scatter_(self.filled, flat)

    def add(self, row: Tensor) -> None:
        """Take in one row x: H^-1 <- H^-1 - H^-1 x x' H^-1 / (P + x' H^-1 x), with P examples.

        :param row: a number for each parameter, ``(parameters,)``.
        """
        x = self.blocks(row.double())
        moved = torch.einsum("kij,kj->ki", self.values, x)
        below = self.examples + (x * moved).sum(1)
        self.values.addcmul_(moved[:, :, None], (moved / below[:, None])[:, None, :], value=-1)


class Surgery:
    """Parameters that are deleted one by one, all others of the block corrected each time.

    In numpy, and on the processor wherever the net is: a deletion is a handful of small operations, tens of thousands
    of times.

    :param weights: the parameters, ``(parameters,)``.
    :param alive: which of them are still there, bool; the rows that ``inverse`` took in must be zero where they aren't.
    """

    def __init__(self, inverse: InverseHessian, weights: Tensor, alive: Tensor) -> None:
        self.filled = inverse.filled.cpu()
        self.inverses = inverse.values.cpu().numpy().copy()
        self.values = inverse.blocks(weights.double()).cpu().numpy().copy()
        self.alive = inverse.blocks(alive).cpu().numpy().copy()
        self.increase = 0.0
        """Sum of the saliencies of what was deleted: the increase of the loss that they predict."""

        # The least saliency of each block and where it is: a deletion changes those of its own block only.
        saliencies = np.stack([self._saliency(block) for block in range(len(self.values))])
        self._where, self._least = saliencies.argmin(1), saliencies.min(1)

    def _saliency(self, block: int) -> NDArray[np.float64]:
        """Return w_q^2 / (2 [H^-1]_qq) for each parameter q of a block, ``(block,)``; infinity if it has gone."""
        found = np.full(self.values.shape[1], np.inf)
        spread = self.inverses[block].diagonal()
        np.divide(self.values[block] ** 2, 2 * spread, out=found, where=self.alive[block])
        return found

    def step(self, limit: float = float("inf")) -> bool:
        """Delete the least salient parameter q: w <- w - w_q / [H^-1]_qq H^-1 e_q.

        Then q is taken out of the inverse, exactly, and its row and column become zero: no later correction moves it.

        :param limit: a parameter with a larger saliency stays.
        :returns: whether one was deleted.
        """
        block = int(self._least.argmin())
        index, least = int(self._where[block]), float(self._least[block])
        if least == float("inf") or least > limit:
            return False

        inverse, values = self.inverses[block], self.values[block]
        column = inverse[:, index].copy()
        scaled = column / column[index]
        values -= values[index] * scaled
        values[index] = 0

        torch.from_numpy(inverse).addr_(torch.from_numpy(column), torch.from_numpy(scaled), alpha=-1)  # in place
        inverse[index, :] = 0
        inverse[:, index] = 0
        self.alive[block, index] = False
        self.increase += least

        saliency = self._saliency(block)
        self._where[block] = saliency.argmin()
        self._least[block] = saliency[self._where[block]]
        return True

    def flat(self) -> tuple[Tensor, Tensor]:
        """Return the corrected parameters, and which are still there: each ``(parameters,)``."""
        return torch.from_numpy(self.values)[self.filled], torch.from_numpy(self.alive)[self.filled]
