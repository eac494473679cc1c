"""The processes that play one run together: torchrun starts them, gloo carries what they tell each other."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


@dataclasses.dataclass(frozen=True)
class Processes:
    """The processes of one run, each of which plays its share of every batch.

    All else they do alike, from the same seeds, so that they hold the same nets, draws and decisions at any time. Every
    one has to call each verb here, in the same order.

    :param rank: of this one, from 0.
    :param count: how many there are.
    """

    rank: int = 0
    count: int = 1

    @classmethod
    def joined(cls) -> Processes:
        """Join the processes that torchrun started beside this one, if it did."""
        if int(os.environ.get("WORLD_SIZE") or 1) == 1:
            return ALONE
        if not dist.is_initialized():
            dist.init_process_group("gloo")
        return cls(dist.get_rank(), dist.get_world_size())

    @property
    def first(self) -> bool:
        """Whether this is the one that writes the run's files."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait until all have come here."""
        if self.count > 1:
            dist.barrier()

    def gather(self, rows: Tensor, counts: Sequence[int]) -> Tensor:
        """Return the rows of all processes, one process after another; as bytes, so that any type can travel.

        :param rows: of this process, ``(counts[rank], ...)``; they travel through the memory of the host.
        :param counts: how many rows each process has.
        """
        if self.count == 1:
            return rows
        flat = rows.detach().reshape(len(rows), -1).cpu().contiguous().view(torch.uint8)

        # All send tensors of one size; what is filled up goes again.
        sent = F.pad(flat, (0, 0, 0, max(counts) - len(flat)))
        parts = [torch.empty_like(sent) for _ in counts]
        dist.all_gather(parts, sent)
        whole = torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])
        return whole.view(rows.dtype).view(-1, *rows.shape[1:]).to(rows.device)

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum over all processes, the same bits in each."""
        if self.count == 1:
            return values
        total = values.detach().cpu().clone()
        dist.all_reduce(total)
        return total.to(values.device)

    def all(self, holds: bool) -> bool:
        """Tell whether something holds in every process."""
        return int(self.sum(torch.tensor(int(holds)))) == self.count


ALONE = Processes()


class _Summed(torch.autograd.Function):
    """The sum over all processes, whose gradient is the sum of their gradients."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, processes: Processes) -> Tensor:
        ctx.processes = processes
        return processes.sum(values)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        total: Tensor = ctx.processes.sum(grads[0])
        return total, None


class WholeBatchNorms(TorchFunctionMode):
    """Let batch normalization see the batch of all processes as one, in both passes and in running statistics.

    It stands in for ``torch.nn.functional.batch_norm``, so that norms of any class are reached; torch's own
    ``SyncBatchNorm`` takes a GPU.
    """

    def __init__(self, processes: Processes) -> None:
        super().__init__()
        self.processes = processes

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.batch_norm:
            return self._normalized(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _normalized(
        self,
        given: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        if not training:
            return F.batch_norm(given, running_mean, running_var, weight, bias, False, momentum, eps)

        axes = [0, *range(2, given.dim())]
        shape = [1, -1, *(1 for _ in axes[1:])]
        x = given.float()
        own = torch.cat([x.sum(axes), x.new_tensor([x.numel() / x.shape[1]])])
        told: Tensor = _Summed.apply(own, self.processes)
        count = told[-1].detach()
        mean = told[:-1] / count

        # Deviations from the mean of all, which the sum of squares alone would lose to rounding.
        apart = x - mean.view(shape)
        var: Tensor = _Summed.apply(apart.square().sum(axes), self.processes) / count
        with torch.no_grad():
            if running_mean is not None and running_var is not None:
                running_mean.mul_(1 - momentum).add_(mean, alpha=momentum)
                running_var.mul_(1 - momentum).add_(var * count / (count - 1), alpha=momentum)

        out = apart * (var + eps).rsqrt().view(shape)
        if weight is not None:
            out = out * weight.view(shape)
        return (out if bias is None else out + bias.view(shape)).to(given.dtype)
