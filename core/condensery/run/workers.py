"""Data-parallel workers: each plays its share of a batch, and they agree on one gradient.

Workers are simulated one after another in a process, or spread over the processes of a run: both give the same numbers.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from condensery.errors import UsageError
from condensery.run.processes import ALONE, Processes, WholeBatchNorms
from condensery.run.steps import shares
from condensery.tasks import Batch, Task

Gradients = Mapping[str, Tensor]
"""The gradients of one worker, flat, by plain name of the parameter."""


class Workers:
    """The workers of one stage.

    Each normalizes by the statistics of its own share, and running statistics take the mean of what the workers made of
    them. Where the recipe asks for one worker and several processes play it, each is a worker, but batch normalization
    sees their shares as one batch: then they come to what one process would.

    :param count: that the recipe asks for; there is at least one in each process.
    """

    def __init__(self, count: int = 1, processes: Processes = ALONE) -> None:
        self.count, self.processes = max(count, processes.count), processes
        self.whole = count < self.count
        bounds = [self.count * rank // processes.count for rank in range(processes.count + 1)]
        self.rows = [stop - start for start, stop in itertools.pairwise(bounds)]
        self.own = range(bounds[processes.rank], bounds[processes.rank + 1])

    def split(self, task: Task, batch: Batch) -> list[tuple[Batch | None, float]]:
        """Return each worker's share of a batch, ``None`` where nothing in it counts, and how much the share counts.

        A share counts by what its mean loss is over, 1 on the average: the mean over all workers is that of the batch.

        :raises UsageError: if that leaves a process of several without any.
        """
        if self.count == 1:
            return [(None if task.is_empty(batch) else batch, 1.0)]
        parts = [None if task.is_empty(part) else part for part in shares(batch, self.count)]
        parts += [None] * (self.count - len(parts))
        if self.processes.count > 1 and None in parts:
            raise UsageError(
                f"a batch of {batch.size} has nothing to learn from for one of {self.count} workers: take another "
                "batch_size, or fewer processes"
            )

        weights = [0.0 if part is None else task.weight(part) for part in parts]
        total = sum(weights) or 1.0
        return [(part, weight * self.count / total) for part, weight in zip(parts, weights, strict=True)]

    @contextlib.contextmanager
    def turns(self, nets: Sequence[nn.Module]) -> Iterator[Turns]:
        """Let the workers of this process play one step: ``with turns.of(worker): ...`` for each.

        :param nets: that play.
        """
        turns = Turns(self, nets)
        yield turns
        turns.agree()

    def buckets(self, named: Mapping[str, nn.Parameter], told: Sequence[Gradients]) -> Iterator[Bucket]:
        """Yield a bucket for each parameter that any worker has a gradient for.

        :param named: the parameters of one player.
        :param told: by each worker of this process; by one alone where it has played the whole batch.
        """
        # What all processes did alike, outside of their shares, needs no exchange between them.
        workers = self if len(told) == len(self.own) and self.processes.count > 1 else None
        has = torch.tensor([any(name in gradients for gradients in told) for name in named], dtype=torch.int64)
        if workers is not None:
            has = self.processes.sum(has)

        for (name, parameter), present in zip(named.items(), has.tolist(), strict=True):
            if present:
                rows = [g[name] if name in g else torch.zeros_like(parameter).flatten() for g in told]
                yield Bucket(name, parameter.shape, torch.stack(rows), workers)

    # ---------------------------------------------------------------- what methods keep for each worker

    def of_all(self, rows: Tensor) -> Tensor:
        """Return what is kept for each worker, for a checkpoint: of all workers.

        :param rows: of this process's workers, ``(workers, ...)``.
        """
        return self.processes.gather(rows, self.rows) if len(rows) == len(self.own) else rows

    def of_own(self, rows: Tensor) -> Tensor:
        """Return what a checkpoint holds for the workers of this process.

        :param rows: of all workers.
        :raises UsageError: if they were others.
        """
        if len(rows) not in (1, self.count):
            raise UsageError(f"it was stopped with {len(rows)} workers, and can't go on with {self.count}")
        return rows[self.own.start : self.own.stop].clone() if len(rows) == self.count else rows


class Turns:
    """One step of the workers of a process: each draws by itself, and meets the net as it was before all of them."""

    def __init__(self, workers: Workers, nets: Sequence[nn.Module]) -> None:
        self.workers = workers
        if workers.count > 1:
            self.seed = int(torch.randint(2**62, ()))  # from the generator that is alike in all processes
            self.devices = {p.device for net in nets[:1] for p in net.parameters() if p.is_cuda}
            self.buffers = [buffer for net in nets for buffer in net.buffers()]
            self.before = [buffer.clone() for buffer in self.buffers]
            self.made: list[Tensor] = []

    @contextlib.contextmanager
    def of(self, worker: int) -> Iterator[None]:
        """Play as one worker."""
        if self.workers.count == 1:
            yield
            return
        for buffer, old in zip(self.buffers, self.before, strict=True):
            buffer.copy_(old)
        whole = WholeBatchNorms(self.workers.processes) if self.workers.whole else contextlib.nullcontext()
        with torch.random.fork_rng(self.devices), whole:
            torch.manual_seed(self.seed + worker)
            yield
        self.made.append(self._floats(self.buffers))

    def agree(self) -> None:
        """Give running statistics the mean of what the workers made of them; what none has changed stays as it is."""
        if self.workers.count == 1 or not self.made or not len(self.made[0]):
            return
        rows = self.workers.processes.gather(torch.stack(self.made), self.workers.rows)
        before = self._floats(self.before)
        agreed = torch.where((rows != before).any(0), rows.mean(0), before)

        place = 0
        for buffer in self.buffers:
            if buffer.is_floating_point():
                buffer.copy_(agreed[place : place + buffer.numel()].view_as(buffer))
                place += buffer.numel()

    @staticmethod
    def _floats(buffers: Sequence[Tensor]) -> Tensor:
        """Return all numbers of the buffers of floats, flat."""
        flat = [buffer.flatten().float() for buffer in buffers if buffer.is_floating_point()]
        return torch.cat(flat) if flat else torch.zeros(0)


@dataclasses.dataclass
class Exchanged:
    """The bytes of gradients that one worker of a stage has sent, and how many they would be as they are."""

    sent: int = 0
    plain: int = 0

    def count(self, bucket: Bucket) -> None:
        """Add one bucket, once it was exchanged."""
        self.sent += bucket.sent
        self.plain += bucket.values[0].numel() * bucket.values.element_size()

    def per_step(self, steps: int) -> dict[str, float]:
        """Return the bytes of one step, and how many times fewer they are than they would be."""
        steps = max(1, steps)
        ratio = self.plain / self.sent if self.sent else 1.0
        return {"sent_bytes": self.sent / steps, "plain_bytes": self.plain / steps, "sent_ratio": ratio}


class Bucket:
    """One parameter's gradients from the workers of this process, and what workers may tell each other.

    :param name: plain name of the parameter.
    :param shape: of the parameter.
    :param values: flat, of shape ``(workers of this process, numbers)``.
    :param workers: where others play in other processes.

    ``sent`` counts the bytes that each worker has sent so far for this bucket.
    """

    def __init__(self, name: str, shape: torch.Size, values: Tensor, workers: Workers | None = None) -> None:
        self.name, self.shape, self.values = name, shape, values
        self.workers = workers
        self.sent = 0

    def gather(self, codes: Tensor) -> Tensor:
        """Return what all workers send, each its own codes; the bytes of one worker's are counted.

        :param codes: ``(workers of this process, ...)``, of any type: pack bits into bytes before.
        :returns: ``(workers, ...)``.
        """
        self.sent += codes[0].numel() * codes.element_size()
        return codes if self.workers is None else self.workers.processes.gather(codes, self.workers.rows)

    def own(self, told: Tensor) -> Tensor:
        """Return, of what all workers sent, the part of this process's.

        :param told: ``(workers, ...)``.
        """
        return told if self.workers is None else told[self.workers.own.start : self.workers.own.stop]

    def uniform(self) -> Tensor:
        """Return numbers drawn from 0 to 1, one for each of the values: the same wherever a worker plays."""
        if self.workers is None:
            return torch.rand_like(self.values)
        # Each process draws for all workers, so that its generator stays like the others'.
        return self.own(torch.rand_like(self.values[:1].expand(self.workers.count, -1)))

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean over all workers, who send their values as they are.

        :param values: ``(workers of this process, ...)``.
        """
        return self.gather(values).mean(0)

    def max(self, values: Tensor) -> Tensor:
        """Return the maximum over all workers, who send their values as they are.

        :param values: ``(workers of this process, ...)``.
        """
        return self.gather(values).amax(0)
