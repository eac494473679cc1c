from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from condensery import NotApplicable, Stage, hookimpl
from condensery_plugins.distillation.soft_targets import SoftTargets
from condensery_plugins.pruning.masks import sparsity_percent


@dataclass(eq=False, kw_only=True)
class PruneThenDistill(SoftTargets):
    """Distil from a teacher that was pruned first.

    Park, No: "Prune Your Model Before Distill It", ECCV 2022 [58]. What is new is the teacher: it must carry masks,
    made by ``magnitude`` in earlier rounds. The authors' student is dense with as many weights a layer as the teacher
    has left, see :func:`student_channels`; any student works.

    Loss: that of :class:`SoftTargets`, with the authors' settings.

    Raises NotApplicable if the teacher isn't pruned.
    """

    key = "prune-then-distill"

    T: float = 10.0
    alpha: float = 0.95

    @hookimpl
    def prepare(self, stage: Stage) -> None:
        """Refuse a teacher without masks, or of other classes."""
        super().prepare(stage)
        for teacher in stage.teachers:
            if all(bool(weight.alive.all()) for weight in stage.weights(teacher.name)):
                hint = "e.g. magnitude{name=p} -> ... {teacher=p}"
                raise NotApplicable(self.key, f"{teacher.name} isn't pruned; {hint}")

    @hookimpl
    def report(self, stage: Stage) -> dict[str, float]:
        """Return how much of the teacher was pruned, and what speaks against the pair."""
        return super().report(stage) | {"teacher_sparsity_percent": sparsity_percent(stage.weights("teacher"))}


def student_channels(alive: Sequence[int], *, inputs: int = 3, kernel: int = 9) -> list[int]:
    """Return the channels of a dense student with as many weights a layer as the teacher has left.

    c_1 = round(n_1 / (kernel * inputs)), c_i = round(n_i / (kernel * c_(i-1))).

    :param alive: how many weights of each convolution the teacher has left, in order.
    :param inputs: channels of the image.
    :param kernel: positions of a kernel, 9 for 3x3.
    """
    channels: list[int] = []
    for count in alive:
        before = channels[-1] if channels else inputs
        channels.append(max(1, round(count / (kernel * before))))
    return channels
