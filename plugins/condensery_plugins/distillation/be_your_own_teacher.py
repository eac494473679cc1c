from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor, nn

from condensery import Batch, Method, NotApplicable, Stage, hookimpl
from condensery.run import Outputs, Player
from condensery_plugins.distillation.adapters import aligned, real_tokens, unpadded
from condensery_plugins.distillation.layer_maps import stages_of
from condensery_plugins.distillation.softened import divergence, softened


class Branch(nn.Module):
    """A bottleneck that brings shallow features to the deepest ones' shape, and a classifier on their mean.

    :param mine: an example of the shallow features: maps, tokens or vectors.
    :param deepest: of the deepest features.
    :param classes: that the classifier tells apart.
    """

    def __init__(self, mine: Tensor, deepest: Tensor, classes: int) -> None:
        super().__init__()
        self.shrinks = mine.dim() == deepest.dim() == 4
        if not self.shrinks:
            mine, deepest = aligned(mine, deepest)
        halvings = max(0, round(math.log2(mine.shape[2] / deepest.shape[2])))

        layers: list[nn.Module] = []
        before, width = mine.shape[1], deepest.shape[1]
        inner = max(1, width // 4)
        for number in range(max(1, halvings)):
            size, stride = (3 if self.shrinks else 1), (2 if number < halvings else 1)
            layers += [nn.Conv2d(before, inner, 1, bias=False), nn.BatchNorm2d(inner), nn.ReLU()]
            layers += [nn.Conv2d(inner, inner, size, stride, size // 2, bias=False), nn.BatchNorm2d(inner), nn.ReLU()]
            layers += [nn.Conv2d(inner, width, 1, bias=False), nn.BatchNorm2d(width)]
            before = width

        # Where the deepest features come out of a ReLU, so do these.
        if bool((deepest >= 0).all()):
            layers.append(nn.ReLU())
        self.bottleneck = nn.Sequential(*layers).to(mine)
        self.classifier = nn.Linear(width, classes).to(mine)

    def forward(self, mine: Tensor, deepest: Tensor, inputs: Any = None) -> tuple[Tensor, Tensor, Tensor]:
        """Return these features and the deepest ones, as maps of one shape, and the scores ``(batch, classes)``.

        :param inputs: of the batch; what is padding in a text is 0 in both, and no part of a mean or a statistic.
        """
        if not self.shrinks:
            mine, deepest = aligned(mine, deepest)
        features, deepest = aligned(self._narrowed(mine, real_tokens(inputs, mine)), deepest)
        (features, deepest), share = unpadded(inputs, features, deepest)
        mean = features.mean((2, 3))
        return features, deepest, self.classifier(mean / share[:, None] if isinstance(share, Tensor) else mean)

    def _narrowed(self, maps: Tensor, real: Tensor | None) -> Tensor:
        """Return what the bottleneck makes of maps; of a text's, of its real tokens alone, as if each were an image."""
        if real is None:
            return self.bottleneck(maps)  # type: ignore[no-any-return]
        found = self.bottleneck(maps.squeeze(3).transpose(1, 2)[real][:, :, None, None]).flatten(1)
        laid = found.new_zeros(*real.shape, found.shape[1])
        laid[real] = found
        return laid.transpose(1, 2).unsqueeze(3)  # type: ignore[no-any-return]


@dataclass(eq=False, kw_only=True)
class BeYourOwnTeacher(Method):
    """Let the deepest part of a net teach the shallower ones, through classifiers that are thrown away at the end.

    Zhang, Song, Gao, Chen, Bao, Ma: "Be Your Own Teacher: Improve the Performance of Convolutional Neural Networks via
    Self Distillation", ICCV 2019 [48]. The net is cut after each of its ``stages``; but for the last, each gets a
    bottleneck to the last one's shape and a classifier of its own.

    Loss: task, and for each shallow classifier i with features F_i, against the deepest, C:
    (1 - alpha) task_i + alpha T^2 KL(q_C^T || q_i^T) + hint ||F_i - F_C||^2. The divergence is summed over classes and
    averaged over rows, the distance summed over features and averaged over the batch; what is shown of each kind is the
    sum over the classifiers. q_C and F_C get no gradient from it. ``order`` ``shallow-first`` gives KL(q_i || q_C), as
    the paper's formula has it.

    When: ``alpha: 0, hint: 0`` is the control: classifiers that learn from the labels alone.

    End: bottlenecks and classifiers go, the net is as it was built.

    Raises NotApplicable without class scores, on a net with fewer than two stages, and where a net gives more than one
    decision for an example.
    """

    key = "be-your-own-teacher"

    needs = frozenset({"classifier-logits"})

    alpha: float = 0.3
    T: float = 3.0
    hint: float = 1e-4
    order: Literal["deep-first", "shallow-first"] = "deep-first"
    stages: list[str] = field(default_factory=list)

    @hookimpl
    def prepare(self, stage: Stage) -> None:
        """Find the stages, tap them, and give each but the last its bottleneck and classifier."""
        self.paths_ = self.stages or stages_of(stage.student, self.key)
        if len(self.paths_) < 2:
            raise NotApplicable(self.key, f"{self.paths_} is no two stages; name two modules or more in stages")

        for path in self.paths_:
            stage.student.tap(path)
        outputs = stage.play(stage.sample(2)[0], [stage.student])["student"]
        if not isinstance(outputs.tree, Tensor) or outputs.tree.dim() != 2:
            raise NotApplicable(self.key, "the net's outputs aren't one row of class scores for each example")

        *shallow, deepest = (outputs.taps[path] for path in self.paths_)
        for number, features in enumerate(shallow, 1):
            stage.student.helpers[f"branch{number}"] = Branch(features, deepest, outputs.rows.shape[1])

    @hookimpl
    def loss_terms(
        self, stage: Stage, batch: Batch, outputs: Mapping[str, Outputs], player: Player
    ) -> dict[str, Tensor]:
        """Return what the shallow classifiers learn from labels, from the deepest one, and from its features."""
        mine = outputs[player.name]
        teacher = Outputs(mine.tree.detach(), stage.task, batch)
        *shallow, deepest = (mine.taps[path] for path in self.paths_)

        terms: dict[str, Tensor] = {}
        for number, features in enumerate(shallow, 1):
            guess, goal, scores = player.helpers[f"branch{number}"](features, deepest.detach(), batch.inputs)
            learner = Outputs(scores, stage.task, batch)
            found = {
                "kd": self.alpha * self.T**2 * self._apart(learner, teacher),
                "hint": self.hint * (guess - goal).square().flatten(1).sum(1).mean(),
            }
            labels = stage.task.loss(scores, batch)
            if labels is not None:
                found["labels"] = (1 - self.alpha) * labels
            terms = {name: terms[name] + term if name in terms else term for name, term in found.items()}
        return terms

    def _apart(self, learner: Outputs, teacher: Outputs) -> Tensor:
        """Return the divergence of a shallow classifier from the deepest."""
        one, other = (learner, teacher) if self.order == "deep-first" else (teacher, learner)
        return divergence(one, softened(other.rows, self.T), self.T)
