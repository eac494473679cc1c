from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from condensery import Method, Stage, hookimpl
from condensery.contract import Words
from condensery.run import Outputs, Player
from condensery_plugins.distillation.adapters import Adapter, unpadded
from condensery_plugins.distillation.layer_maps import fitting, stages_of, tapped_values
from condensery_plugins.distillation.pairs import only_teacher, refuse_other_classes, warnings_of
from condensery_plugins.distillation.softened import divergence, softened


@dataclass(eq=False, kw_only=True)
class FitNets(Method):
    """Train the lower half of a thin deep student to give what the teacher's middle gives, then the whole by outputs.

    Romero, Ballas, Kahou, Chassang, Gatta, Bengio: "FitNets: Hints for Thin Deep Nets", ICLR 2015 [44]. One phase a
    stage: ``hint``, then ``distil`` from its weights. A regressor takes the student's guided layer to the width of the
    teacher's hint layer, and ends in a ReLU where the hint has no negative value, as behind one.

    Loss: in ``hint`` half the squared distance of hint and guess alone, no labels (eq. 3): as in the paper the sum over
    all its numbers, or as in the authors' code the sum over its height (a text's tokens) and the mean over all else;
    the mean over the batch, without a text's padding. In ``distil`` task + lambda KL(teacher^T || student^T), without a
    factor T^2 (eq. 2): KL has the gradient of the paper's cross entropy; it is summed over classes and averaged over
    the task's rows.

    When: in ``hint`` all that the student calls behind its guided layer is frozen, with its batch statistics. In
    ``distil`` lambda falls along a line from ``weight`` to ``last_weight``.

    End: the regressor is gone after ``hint``.

    Raises NotApplicable without a teacher, in ``hint`` for several and without stages where no layers are named, and in
    ``distil`` without class scores or where the teacher has other classes.
    """

    key = "fitnets"

    phase: Literal["hint", "distil"] = "hint"
    hint: str = ""
    guided: str = ""
    reduction: Literal["paper", "code"] = "paper"
    T: float = 3.0
    weight: float = 4.0
    last_weight: float = 1.0

    def words(self) -> Words:
        """Return what the phase needs."""
        needs = {"teacher"} if self.phase == "hint" else {"teacher", "classifier-logits"}
        return Words(frozenset(needs), frozenset(), frozenset())

    @hookimpl
    def prepare(self, stage: Stage) -> None:
        """Tap both middles, make a regressor of the right size, and freeze what lies above; only for hints."""
        if self.phase == "distil":
            refuse_other_classes(stage, self.key)
            return

        student, teacher = stage.student, only_teacher(stage, self.key)
        self.guided_ = self.guided or _middle(stages_of(student, self.key))
        self.hint_ = self.hint or _middle(stages_of(teacher, self.key))
        student.tap(self.guided_)
        teacher.tap(self.hint_)

        mine, theirs = tapped_values(stage)
        self.rectified_ = bool((theirs[self.hint_] >= 0).all())
        self.regressor_ = f"{self.key}-{len(student.helpers)}"
        with fitting(self.key):
            student.helpers[self.regressor_] = Adapter(mine[self.guided_], theirs[self.hint_])
        student.freeze(called_after(stage, self.guided_))

    @hookimpl
    def loss_terms(self, stage: Stage, outputs: Mapping[str, Outputs], player: Player) -> dict[str, Tensor]:
        """Return the distance of the hint, or the soft term by its current weight."""
        if self.phase == "hint":
            mine, theirs = outputs[player.name].taps[self.guided_], outputs[stage.teachers[0].name].taps[self.hint_]
            met = player.helpers[self.regressor_](mine, theirs)
            (guess, hint), _ = unpadded(outputs[player.name].batch.inputs, *met)
            return {"hint": hint_distance(guess.relu() if self.rectified_ else guess, hint, self.reduction)}

        done = stage.step / max(1, stage.epochs * stage.steps_per_epoch)
        weight = self.weight + (self.last_weight - self.weight) * done
        target = softened([outputs[t.name].rows for t in stage.teachers], self.T)
        return {"kd": weight * divergence(outputs[player.name], target, self.T)}

    @hookimpl
    def task_weight(self) -> float:
        """Leave the labels to the second phase."""
        return 0.0 if self.phase == "hint" else 1.0

    @hookimpl
    def report(self, stage: Stage) -> dict[str, float]:
        """Return what speaks against this pair of teacher and student."""
        return warnings_of(stage)


def hint_distance(guess: Tensor, hint: Tensor, reduction: Literal["paper", "code"]) -> Tensor:
    """Return half the squared distance of two maps, ``(batch, channels, height, width)``, the mean over the batch.

    :param reduction: of one example: ``paper``, the sum; ``code``, the sum over height, the mean over all else.
    :returns: shape ``()``.
    """
    squared = (guess - hint).square()
    return 0.5 * (squared.flatten(1).sum(1) if reduction == "paper" else squared.sum(2)).mean()


def called_after(stage: Stage, path: str) -> list[str]:
    """Return the outermost modules of the student that are first called when a layer has given its output."""
    net = stage.student.module
    entered: list[str] = []
    handles = [
        module.register_forward_pre_hook(lambda _, given, name=name: entered.append(name))
        for name, module in net.named_modules()
    ]
    # An output is no module's name: what stands before it in the list has begun below the layer's end.
    handles.append(net.get_submodule(path).register_forward_hook(lambda _, given, out: entered.append(":output")))
    stage.play(stage.sample(2)[0], [stage.student])
    for handle in handles:
        handle.remove()

    first = entered.index(":output")
    later = dict.fromkeys(name for name in entered[first + 1 :] if name != ":output" and name not in entered[:first])
    return [name for name in later if not any(name.startswith(f"{other}.") for other in later)]


def _middle(stages: list[str]) -> str:
    """Return the middle one of some stages, the lower one of two."""
    return stages[(len(stages) - 1) // 2]
