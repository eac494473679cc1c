from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from condensery.contract import hookimpl
from condensery.errors import NotApplicable
from condensery.run import Stage
from condensery_plugins.distillation.hinton_kd import HintonKD
from condensery_plugins.pruning.masks import sparsity_percent


@dataclass(eq=False, kw_only=True)
class PruneThenDistill(HintonKD):
    """Distil from a teacher that was pruned first.

    Park, No: "Prune Your Model Before Distill It", ECCV 2022 [58]. The loss is Hinton's with the authors' settings;
    what is new is the teacher: it must carry masks, made by ``magnitude`` in earlier rounds. The authors' student is
    dense with as many weights a layer as the teacher has left, see :func:`student_channels`; any student works.
    Raises NotApplicable if the teacher isn't pruned.
    """

    key = "prune-then-distill"

    T: float = 10.0
    alpha: float = 0.95

    @hookimpl
    def prepare(self, stage: Stage) -> None:
        """Refuse a teacher without masks."""
        for teacher in stage.teachers:
            alive = [w.alive for w in stage.weights(teacher.name)]
            if all(bool(a.all()) for a in alive):
                raise NotApplicable(
                    "prune-then-distill", f"{teacher.name} isn't pruned; e.g. magnitude{{name=p}} -> ... {{teacher=p}}"
                )

    @hookimpl
    def report(self, stage: Stage) -> dict[str, float]:
        """Return how much of the teacher was pruned."""
        return {"teacher_sparsity_percent": sparsity_percent(stage.weights("teacher"))}


def student_channels(alive: Sequence[int], *, inputs: int = 3, kernel: int = 9) -> list[int]:
    """Return the channels of a dense student with as many weights a layer as the teacher has left.

    c_1 = round(n_1 / (kernel * inputs)), c_i = round(n_i / (kernel * c_(i-1))).

    :param alive: the teacher's remaining weights of each convolution, in order.
    :param kernel: positions of a kernel, 9 for 3x3.
    """
    channels: list[int] = []
    for count in alive:
        before = channels[-1] if channels else inputs
        channels.append(max(1, round(count / (kernel * before))))
    return channels
