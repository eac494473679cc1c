from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from condensery import Stage, hookimpl
from condensery.run import Outputs, Player
from condensery_plugins.distillation.soft_targets import Taught
from condensery_plugins.distillation.softened import divergence, softened


@dataclass(eq=False, kw_only=True)
class SnapshotDistillation(Taught):
    """Let a net learn from what it was at the end of the cycle before.

    Yang, Xie, Su, Yuille: "Snapshot Distillation: Teacher-Student Optimization in One Generation", CVPR 2019 [49].

    Loss: label_weight task + teacher_weight KL(teacher^T || student), summed over classes and averaged over rows. Only
    the teacher is softened, and there is no factor T^2: both would make it another method. KL has the gradient of the
    paper's cross entropy, as the teacher is frozen. Without a ``label_weight`` it is 1 + 1/T.

    When: one stage is one cycle, and its ``teacher: input`` the net as it entered it: the last cycle's snapshot. The
    learning rate starts anew in each, so that the net moves away from its teacher: ``schedule: {name: cosine}`` with
    ``carry_optimizer: true``. The first cycle has no teacher and is a stage without this method.

    Raises NotApplicable without a teacher or class scores, and where the teacher has other classes.
    """

    key = "snapshot-distillation"

    T: float = 3.0
    teacher_weight: float = 1.0
    label_weight: float | None = None

    @hookimpl
    def loss_terms(self, outputs: Mapping[str, Outputs], player: Player, stage: Stage) -> dict[str, Tensor]:
        """Return the divergence from the softened snapshot."""
        target = softened([outputs[t.name].rows for t in stage.teachers], self.T)
        return {"snapshot": self.teacher_weight * divergence(outputs[player.name], target, 1.0)}

    @hookimpl
    def task_weight(self) -> float:
        """Give the labels their weight."""
        return 1 + 1 / self.T if self.label_weight is None else self.label_weight
