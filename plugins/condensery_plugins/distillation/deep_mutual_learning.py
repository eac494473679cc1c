from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from condensery import Method, Stage, hookimpl
from condensery.run import Outputs, Player
from condensery_plugins.distillation.softened import divergence, softened


@dataclass(eq=False, kw_only=True)
class DeepMutualLearning(Method):
    """Let nets that start differently teach each other while they train.

    Zhang, Xiang, Hospedales, Lu: "Deep Mutual Learning", CVPR 2018. The peers are built like the student, with other
    initial weights: cut as it is, and with the same quantizers and masks.

    Loss of net k: task + weight / (K - 1) sum over l != k of KL(p_l || p_k), at temperature 1 (eq. 8).

    When: in the paper each net is updated in turn and the next one sees the update (algorithm 1): that is the recipe's
    ``train: {in_turn: true}``.

    End: the student goes on alone.

    Raises NotApplicable without class scores.
    """

    key = "deep-mutual-learning"

    needs = frozenset({"classifier-logits"})
    acts_on = ("all",)

    peers: int = 1
    weight: float = 1.0

    @hookimpl
    def players(self, stage: Stage) -> list[Player]:
        """Recruit the peers."""
        spec = stage.student.spec
        start = 1 + sum(name.startswith("peer#") for name in stage.players)
        made = []
        for number in range(start, start + self.peers):
            fresh = spec.model_copy(update={"seed": spec.seed + number, "weights": None, "init_from": None})
            made.append(stage.recruit(f"peer#{number}", fresh, like="student"))

        self.cohort_ = ["student", *[p.name for p in made]]
        return made

    @hookimpl
    def loss_terms(self, outputs: Mapping[str, Outputs], player: Player) -> dict[str, Tensor] | None:
        """Return the mean divergence from the other nets."""
        if player.name not in self.cohort_:
            return None

        mine = outputs[player.name]
        total = mine.rows.new_zeros(())
        others = [name for name in self.cohort_ if name != player.name]
        for name in others:
            total = total + divergence(mine, softened(outputs[name].rows, 1.0), 1.0)
        return {"mutual": total * (self.weight / len(others))}
