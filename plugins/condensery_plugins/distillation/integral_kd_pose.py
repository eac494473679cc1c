from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from condensery import Method, NotApplicable, Stage, hookimpl
from condensery.run import Outputs, Player
from condensery.tasks import head
from condensery_plugins.distillation.adapters import Adapter
from condensery_plugins.distillation.layer_maps import fitting, stages_of, tapped_pairs, tapped_values
from condensery_plugins.distillation.pairs import only_teacher, warnings_of


@dataclass(eq=False, kw_only=True)
class IntegralKDPose(Method):
    """Teach a small pose net the teacher's heat maps, its features, and how its heat maps go with each other.

    Xu et al.: "Integral Knowledge Distillation for Multi-Person Pose Estimation", IEEE Signal Processing Letters 2020
    [47]. Known of it is the abstract: these three kinds of knowledge together, hence integral. The formulas here are a
    reconstruction. Not to be confused with the inner knowledge distillation of [52], which is called IKD as well.

    Loss: task + ``maps`` times the squared distance of the heat maps, the mean over all their numbers, as the task has
    it for hard ones; + ``features`` times the squared distance of the teacher's features from what a trained
    convolution makes of the student's, the mean over all their numbers; + ``structure`` times the squared distance of
    the tables that hold, for each two points, the cosine of the angle between their heat maps, the mean over their
    entries and the batch. The convolution is 1x1, behind average pooling where sizes differ, or as large as the surplus
    of a student's map that is less than twice the teacher's.

    When: at every step. The features are the last stage of both nets, or the layers of ``layers``, each pair with a
    convolution of its own and the mean of their distances.

    End: the convolutions are gone after the stage.

    Raises NotApplicable without a teacher or for several, for outputs that are no heat maps or not as many and large as
    the teacher's, and without stages where no layers are named.
    """

    key = "integral-kd-pose"

    needs = frozenset({"teacher"})

    maps: float = 1.0
    features: float = 0.1
    structure: float = 0.1
    layers: dict[str, str] = field(default_factory=dict)

    @hookimpl
    def prepare(self, stage: Stage) -> None:
        """Compare the heat maps, tap the features and make their regressors."""
        student, teacher = stage.student, only_teacher(stage, self.key)
        seen = stage.play(stage.sample(2)[0], [student, teacher])
        mine, theirs = (tuple(head(seen[player.name].tree).shape[1:]) for player in (student, teacher))
        if len(mine) != 3:
            raise NotApplicable(self.key, "the outputs are no heat maps, one for each key point")
        if mine != theirs:
            raise NotApplicable(self.key, f"the student's heat maps are {mine}, the teacher's {theirs}")

        chosen = self.layers or {stages_of(student, self.key)[-1]: stages_of(teacher, self.key)[-1]}
        self.pairs_ = tapped_pairs(stage, self.key, chosen, "one-to-one")
        before, after = tapped_values(stage)
        self.first_ = len(student.helpers)  # another copy of the method may have made some
        for number, (one, other) in enumerate(self.pairs_, self.first_):
            with fitting(self.key):
                student.helpers[f"{self.key}-{number}"] = Adapter(before[one], after[other])

    @hookimpl
    def loss_terms(self, stage: Stage, outputs: Mapping[str, Outputs], player: Player) -> dict[str, Tensor]:
        """Return the three distances, already weighted."""
        mine, theirs = outputs[player.name], outputs[stage.teachers[0].name]
        maps, wanted = head(mine.tree), head(theirs.tree)

        apart = []
        for number, (one, other) in enumerate(self.pairs_, self.first_):
            guess, features = player.helpers[f"{self.key}-{number}"](mine.taps[one], theirs.taps[other])
            apart.append((guess - features).square().mean())
        return {
            "maps": self.maps * (maps - wanted).square().mean(),
            "features": self.features * torch.stack(apart).mean(),
            "structure": self.structure * (alike(maps) - alike(wanted)).square().mean(),
        }

    @hookimpl
    def report(self, stage: Stage) -> dict[str, float]:
        """Return what speaks against this pair of teacher and student."""
        return warnings_of(stage)


def alike(maps: Tensor) -> Tensor:
    """Return for each two points the cosine between their heat maps, ``(batch, points, points)``.

    :param maps: ``(batch, points, height, width)``.
    """
    flat = torch.nn.functional.normalize(maps.flatten(2), dim=2)
    return flat @ flat.transpose(1, 2)
