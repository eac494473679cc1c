"""The inverse of a Hessian that is a mean of outer products, in blocks along its diagonal."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class InverseHessian:
    """(alpha I + mean of x x')^-1, made by one rank-one correction for each row x.

    Parameters are numbered through and cut into blocks; curvature between two blocks is taken as zero. With a block at
    least as large as the number of parameters it is the whole inverse.

    :param size: number of parameters.
    :param block: parameters in one block.
    :param alpha: the start is I / alpha.
    :param examples: how many the mean is over; one may give several rows.
    """

    def __init__(self, size: int, block: int, alpha: float, examples: int, device: torch.device) -> None:
        self.size, self.examples = size, examples
        self.block = min(block, size)
        count = -(-size // self.block)
        start = torch.eye(self.block, dtype=torch.float64, device=device) / alpha
        self.values = start.repeat(count, 1, 1)
        """``(blocks, block, block)``; what fills up the last block never moves."""

    def blocks(self, flat: Tensor) -> Tensor:
        """Cut one number for each parameter into ``(blocks, block)``, filled up with zeros."""
        fill = self.values.shape[0] * self.block - self.size
        return torch.nn.functional.pad(flat, (0, fill)).view(-1, self.block)

    def add(self, row: Tensor) -> None:
        """Take in one row: H^-1 <- H^-1 - H^-1 x x' H^-1 / (P + x' H^-1 x).

        :param row: ``(size,)``.
        """
        x = self.blocks(row.double())
        moved = torch.einsum("kij,kj->ki", self.values, x)
        below = self.examples + (x * moved).sum(1)
        self.values -= moved[:, :, None] * (moved / below[:, None])[:, None, :]


class Surgery:
    """Parameters that are deleted one by one, all others of the block corrected each time.

    On the processor and in numpy: a deletion is a handful of small operations, tens of thousands of times.

    :param weights: flat, ``(size,)``.
    :param alive: which of them are still there; the rows that ``inverse`` took in must be zero where they aren't.
    """

    def __init__(self, inverse: InverseHessian, weights: Tensor, alive: Tensor) -> None:
        self.size = inverse.size
        self.inverses = inverse.values.cpu().numpy().copy()
        self.values = inverse.blocks(weights.double()).cpu().numpy().copy()
        self.alive = inverse.blocks(alive).cpu().numpy().copy()
        self.increase = 0.0
        """Sum of the saliencies of what was deleted: the increase of the loss that they predict."""
        saliencies = np.stack([self._saliency(block) for block in range(len(self.values))])
        self._where, self._least = saliencies.argmin(1), saliencies.min(1)

    def _saliency(self, block: int) -> NDArray[np.float64]:
        found = np.full(self.values.shape[1], np.inf)
        spread = self.inverses[block].diagonal()
        np.divide(self.values[block] ** 2, 2 * spread, out=found, where=self.alive[block])
        return found

    def step(self, limit: float = float("inf")) -> bool:
        """Delete the least salient parameter q: w <- w - w_q / [H^-1]_qq H^-1 e_q.

        Then q is taken out of the inverse, exactly, and its row and column become zero: no later correction moves it.

        :param limit: a larger saliency is left.
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
        inverse -= np.outer(column, scaled)
        inverse[index, :] = 0
        inverse[:, index] = 0
        self.alive[block, index] = False
        self.increase += least
        saliency = self._saliency(block)
        self._where[block] = saliency.argmin()
        self._least[block] = saliency[self._where[block]]
        return True

    def flat(self) -> tuple[Tensor, Tensor]:
        """Return the corrected parameters, and which are still there, each ``(size,)``."""
        return torch.from_numpy(self.values).flatten()[: self.size], torch.from_numpy(self.alive).flatten()[: self.size]
