from __future__ import annotations

from dataclasses import dataclass, field

import torch

from condensery import Stage, UnknownKey, hookimpl
from condensery.nets import resolve
from condensery_plugins.distillation.soft_targets import SoftTargets


@dataclass(eq=False, kw_only=True)
class HintonKD(SoftTargets):
    """Teach a student the teacher's softened outputs.

    Hinton, Vinyals, Dean: "Distilling the Knowledge in a Neural Network", NIPS 2014 workshop [42].

    Loss: (1 - alpha) task + alpha T^2 KL(teacher^T || student^T) (section 2), summed over classes and averaged over
    rows; KL has the gradient of the paper's cross entropy, as the teacher is frozen. Of several teachers the mean of
    their probabilities teaches (section 5).

    When: a student that never saw a class is ``data: {subset: {without: [3]}}`` in its stage.

    End: ``raised`` adds to the classifier's biases, by the number of a class: such a student knows the class from the
    soft targets, and only thinks that it is rare (section 3).

    Raises NotApplicable without a teacher or class scores, and where the teacher has other classes; UnknownKey for a
    class that isn't there.
    """

    key = "hinton-kd"

    raised: dict[str, float] = field(default_factory=dict)

    @hookimpl
    def end_stage(self, stage: Stage) -> None:
        """Raise the biases."""
        if not self.raised:
            return

        (path,) = resolve(stage.student.module, "logits")
        biases = stage.weights(tensor="bias").by_path[path].latent
        for name, by in self.raised.items():
            classes = [str(number) for number in range(len(biases))]
            if name not in classes:
                raise UnknownKey("class", name, classes, where=f"{self.key}.raised")
            with torch.no_grad():
                biases[int(name)] += by
