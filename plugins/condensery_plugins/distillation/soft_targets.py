"""The loss that most methods of output distillation share: hard labels beside a teacher's softened outputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from condensery import Method, Stage, hookimpl
from condensery.run import Outputs, Player
from condensery_plugins.distillation.pairs import refuse_other_classes, warnings_of
from condensery_plugins.distillation.softened import divergence, softened


@dataclass(eq=False, kw_only=True)
class Taught(Method):
    """A method whose teacher tells the same classes apart as the student, which is looked at in every pair."""

    needs = frozenset({"teacher", "classifier-logits"})

    @hookimpl
    def prepare(self, stage: Stage) -> None:
        """Refuse a teacher of other classes."""
        refuse_other_classes(stage, self.key)

    @hookimpl
    def report(self, stage: Stage) -> dict[str, float]:
        """Return what speaks against this pair of teacher and student."""
        return warnings_of(stage)


@dataclass(eq=False, kw_only=True)
class SoftTargets(Taught):
    """A method whose student learns (1 - alpha) task + alpha T^2 KL(teacher^T || student^T).

    The divergence is summed over classes and averaged over the task's rows. Of several teachers the mean of their
    probabilities teaches.
    """

    T: float = 4.0
    alpha: float = 0.9

    @hookimpl
    def loss_terms(self, outputs: Mapping[str, Outputs], player: Player, stage: Stage) -> dict[str, Tensor]:
        """Return the soft term."""
        target = softened([outputs[t.name].rows for t in stage.teachers], self.T)
        return {"kd": self.alpha * self.T**2 * divergence(outputs[player.name], target, self.T)}

    @hookimpl
    def task_weight(self, stage: Stage) -> float:
        """Give the hard labels what is left."""
        return 1.0 - self.alpha
