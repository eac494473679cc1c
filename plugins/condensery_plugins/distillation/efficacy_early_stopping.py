from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from condensery import Stage, hookimpl
from condensery.run import Outputs, Player
from condensery_plugins.distillation.soft_targets import SoftTargets


@dataclass(eq=False, kw_only=True)
class EfficacyEarlyStopping(SoftTargets):
    """Stop distilling before the student's training ends, and let it finish with the labels alone.

    Cho, Hariharan: "On the Efficacy of Knowledge Distillation", ICCV 2019 [69]. The paper's other remedy for a student
    that is too small for its teacher, and the one that the survey means, is the teacher's: one that was trained for
    fewer epochs, with the whole schedule of rates in them. That is the recipe's ``base: {epochs: ...}``, or a stage of
    its own with ``teacher: stage:<name>``; it needs no method.

    Loss: (1 - alpha) task + alpha T^2 KL(teacher^T || student^T), summed over classes and averaged over rows, for the
    first ``stop`` of the stage's epochs, rounded up; then task alone, with its full weight.

    When: both shares are chosen on validation, as by a search.

    Raises NotApplicable without a teacher or class scores, and where the teacher has other classes.
    """

    key = "efficacy-early-stopping"

    stop: float = 0.5

    def distils(self, stage: Stage) -> bool:
        """Tell whether the teacher still teaches."""
        return stage.epoch < self.stop * stage.epochs - 1e-9

    @hookimpl
    def loss_terms(self, outputs: Mapping[str, Outputs], player: Player, stage: Stage) -> dict[str, Tensor]:
        """Return the soft term while the teacher teaches."""
        return super().loss_terms(outputs=outputs, player=player, stage=stage) if self.distils(stage) else {}

    @hookimpl
    def task_weight(self, stage: Stage) -> float:
        """Give the hard labels what is left, and all of it at last."""
        return super().task_weight(stage) if self.distils(stage) else 1.0
