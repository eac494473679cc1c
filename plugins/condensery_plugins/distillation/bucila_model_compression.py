from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from condensery import Batch, Method, NotApplicable, Stage, UsageError, hookimpl
from condensery.run import Outputs, Player
from condensery_plugins.distillation.munge import drawn_alone, munge, pool_of
from condensery_plugins.distillation.pairs import refuse_other_classes, warnings_of
from condensery_plugins.distillation.softened import softened


@dataclass(eq=False, kw_only=True)
class BucilaModelCompression(Method):
    """Let a small net imitate a large one on a pool of made-up inputs that nobody has labelled.

    Bucila, Caruana, Niculescu-Mizil: "Model Compression", KDD 2006 [41]. Of several teachers, such as an ensemble, the
    mean of their probabilities is imitated.

    Loss: the squared distance of the student's probabilities from the teacher's, summed over classes and averaged over
    rows; labels aren't used, also where they would say which rows count: all pixels of a made-up image do.

    When: the pool is made once, from ``examples`` training inputs that aren't augmented: ``size`` of them by ``munge``,
    by ``random`` draws of each attribute alone, or, with ``pool: data``, the inputs themselves, which is the control
    that shows what the made-up ones add. An epoch has as many batches as one of the task's data; if the pool is larger,
    each epoch takes others of it. With ``real`` the inputs themselves are in the pool as well.

    Raises NotApplicable without a teacher or class scores, on inputs that are no tensor of numbers, and where the
    teacher has other classes; UsageError for a nominal attribute that isn't there.
    """

    key = "bucila-model-compression"

    needs = frozenset({"teacher", "classifier-logits"})

    pool: Literal["munge", "random", "data"] = "munge"
    size: int = 4000
    examples: int = 1000
    real: bool = True
    swap: float = 0.5
    spread: float = 10.0
    nominal: list[int] = field(default_factory=list)

    @hookimpl
    def prepare(self, stage: Stage) -> None:
        """Make the pool; the same one when a run goes on."""
        refuse_other_classes(stage, self.key)
        parts = [batch.inputs for batch in stage.sample(self.examples)]
        if not all(isinstance(part, Tensor) and part.is_floating_point() for part in parts):
            raise NotApplicable(self.key, "the task's inputs are no tensor of numbers, from which others can be made")
        data = torch.cat(parts).cpu()

        count = data[0].numel()
        if any(not 0 <= number < count for number in self.nominal):
            raise UsageError(f"{self.key}.nominal: an input has attributes 0 to {count - 1}, got {self.nominal}")
        nominal = torch.zeros(count, dtype=torch.bool)
        nominal[self.nominal] = True

        draw = torch.Generator().manual_seed(stage.seed)
        made = []
        if self.pool != "data":
            make = functools.partial(drawn_alone, draw=draw)
            if self.pool == "munge":
                make = functools.partial(munge, nominal=nominal, swap=self.swap, spread=self.spread, draw=draw)
            made.append(pool_of(data, min(self.size, 16) if stage.dry else self.size, make, self.nominal))
        if self.real or not made:
            made.append(data)
        self.inputs = torch.cat(made).to(stage.device)  # not kept: prepare makes the same again

    @hookimpl
    def batches(self, stage: Stage) -> Iterator[Batch]:
        """Yield one epoch from the pool: as many batches as the task has, by which the learning rate is set."""
        inputs, size = self.inputs, stage.train.batch_size
        draw = torch.Generator().manual_seed(stage.seed * 1_000_003 + stage.epoch)
        wanted = stage.steps_per_epoch * size
        order = torch.cat([torch.randperm(len(inputs), generator=draw) for _ in range(-(-wanted // len(inputs)))])
        for part in torch.split(order[:wanted], size):
            yield Batch(inputs[part.to(inputs.device)])

    @hookimpl
    def loss_terms(self, outputs: Mapping[str, Outputs], player: Player, stage: Stage) -> dict[str, Tensor]:
        """Return the squared distance of the probabilities."""
        target = softened([outputs[t.name].rows for t in stage.teachers], 1.0)
        return {"scores": (softened(outputs[player.name].rows, 1.0) - target).square().sum(1).mean()}

    @hookimpl
    def task_weight(self) -> float:
        """Leave the labels out."""
        return 0.0

    @hookimpl
    def report(self, stage: Stage) -> dict[str, float]:
        """Return the size of the pool, and what speaks against the pair."""
        return {"pool_examples": float(len(self.inputs))} | warnings_of(stage)
