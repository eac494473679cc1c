from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from condensery import Method, Stage, hookimpl
from condensery.run import Outputs, Player
from condensery_plugins.distillation.softened import divergence, softened


@dataclass(eq=False, kw_only=True)
class HintonKD(Method):
    """Teach a student the teacher's softened outputs.

    Hinton, Vinyals, Dean: "Distilling the Knowledge in a Neural Network", NIPS 2014 workshop [42].

    Loss: (1 - alpha) task + alpha T^2 KL(teacher^T || student^T) (section 2); KL has the gradient of the paper's cross
    entropy, as the teacher is frozen. Of several teachers the mean of their probabilities teaches (section 5).

    Raises NotApplicable without a teacher or class scores.
    """

    key = "hinton-kd"

    needs = frozenset({"teacher", "classifier-logits"})

    T: float = 4.0
    alpha: float = 0.9

    @hookimpl
    def loss_terms(self, outputs: Mapping[str, Outputs], player: Player, stage: Stage) -> dict[str, Tensor]:
        """Return the soft term, the mean over the task's rows of class scores."""
        target = softened([outputs[t.name].rows for t in stage.teachers], self.T)
        return {"kd": self.alpha * self.T**2 * divergence(outputs[player.name], target, self.T)}

    @hookimpl
    def task_weight(self) -> float:
        """Give the hard labels what is left."""
        return 1.0 - self.alpha
