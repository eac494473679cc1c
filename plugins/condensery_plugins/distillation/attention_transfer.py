from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from condensery import Method, NotApplicable, Stage, hookimpl
from condensery.nets import TapValues
from condensery.run import Outputs, Player
from condensery.tasks import Batch
from condensery_plugins.distillation.adapters import aligned, unpadded
from condensery_plugins.distillation.layer_maps import LayerMap, fitting, tapped_pairs, tapped_values
from condensery_plugins.distillation.pairs import only_teacher, warnings_of

BETA = 1000.0
"""The authors' weight of squared distances, and of distances times the number of positions."""


@dataclass(eq=False, kw_only=True)
class AttentionTransfer(Method):
    """Teach a student where to look: the positions at which the teacher's layers are strong.

    Zagoruyko, Komodakis: "Paying More Attention to Attention: Improving the Performance of Convolutional Neural
    Networks via Attention Transfer", ICLR 2017 [45]. A layer's attention is the mean over channels of |A|^power, scaled
    to length 1 for each example; widths may differ, and of two sizes the larger map is average-pooled first.

    Loss: task + the distance of attentions, summed over the pairs of layers. As in the authors' code (``variant:
    code``) beta times the squared distance, the mean over examples and positions; as in the paper (``paper``) beta / 2
    times the distance itself, not squared, the mean over examples. The paper's beta is 1000 divided by positions and
    batch, beside a sum over examples; beside their mean it is 1000 divided by the positions of the pair. With
    ``by: gradient`` there is one distance, that of the gradients of the task's loss by the inputs, whose numbers count
    as positions, each example's own: the loss is a mean, so it is taken times the batch's size. The code has no
    gradients; in its variant they are squared as the attentions are. A text's padding is no position.

    When: at every step; by gradient each step differentiates twice.

    Raises NotApplicable without a teacher or for several, and without stages where no layers are named; by gradient
    without labels, and where inputs are no tensor of floats.
    """

    key = "attention-transfer"

    needs = frozenset({"teacher"})

    by: Literal["activation", "gradient"] = "activation"
    variant: Literal["code", "paper"] = "code"
    beta: float | None = None
    power: float = 2.0
    layers: dict[str, str] = field(default_factory=dict)
    layer_map: LayerMap = "skip"

    @hookimpl
    def prepare(self, stage: Stage) -> None:
        """Tap the layers, or check that gradients can be had."""
        if self.by == "activation":
            self.pairs_ = tapped_pairs(stage, self.key, self.layers, self.layer_map)
            self._check_positions(*tapped_values(stage))
            return

        only_teacher(stage, self.key)
        if not stage.labels:
            raise NotApplicable(self.key, "gradients of the task's loss need labels, which the stage's data hide")
        inputs = stage.task.example(2)
        if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
            raise NotApplicable(self.key, f"gradients by the inputs need a tensor of floats; {stage.task.key} has none")

    @hookimpl
    def before_step(self, batch: Batch) -> None:
        """Let the student's own pass lead back to its inputs, so that its statistics move once a step."""
        if self.by == "gradient":
            batch.inputs = batch.inputs.detach().requires_grad_()

    @hookimpl
    def loss_terms(self, stage: Stage, outputs: Mapping[str, Outputs], player: Player) -> dict[str, Tensor]:
        """Return the distance of the attentions, already times beta."""
        mine, teacher = outputs[player.name], stage.teachers[0]
        if self.by == "gradient":
            batch = Batch(mine.batch.inputs.detach().requires_grad_(), mine.batch.labels)
            wanted = input_gradient(stage.play(batch, [teacher], to_input=True)[teacher.name])
            return {"gradient": self._distance(input_gradient(mine), wanted.detach())}

        theirs, each = outputs[teacher.name].taps, []
        for pair in self.pairs_:
            maps, share = unpadded(mine.batch.inputs, *aligned(mine.taps[pair[0]], theirs[pair[1]]))
            near, far = (attention(one, self.power) for one in maps)
            each.append(self._distance(near, far, share))
        return {"attention": torch.stack(each).sum()}

    @hookimpl
    def report(self, stage: Stage) -> dict[str, float]:
        """Return what speaks against this pair of teacher and student."""
        return warnings_of(stage)

    def _check_positions(self, mine: TapValues, theirs: TapValues) -> None:
        """Refuse layers whose features have one position only: their attention is 1 whatever the net does."""
        for one, other in self.pairs_:
            with fitting(self.key):
                positions = aligned(mine[one], theirs[other])[0][0, 0].numel()
            if positions == 1:
                raise NotApplicable(self.key, f"{one} and {other} meet at a single position; there is no attention")

    def _distance(self, mine: Tensor, theirs: Tensor, share: Tensor | float = 1.0) -> Tensor:
        """Return the distance of two attentions, ``(batch, positions)``, times its weight.

        :param share: of the positions that aren't padding, in each example.
        """
        real = share.mean() if isinstance(share, Tensor) else share
        if self.variant == "code":
            return (BETA if self.beta is None else self.beta) * (mine - theirs).square().mean() / real
        beta = BETA / (mine.shape[1] * real) if self.beta is None else self.beta
        return beta / 2 * torch.linalg.vector_norm(mine - theirs, dim=1).mean()  # type: ignore[no-any-return]


def attention(features: Tensor, power: float) -> Tensor:
    """Return how strong a map is at each position, ``(batch, height * width)``, of length 1 for each example.

    :param features: ``(batch, channels, height, width)``.
    :param power: of the absolute values, before the mean over channels.
    """
    return torch.nn.functional.normalize(features.abs().pow(power).mean(1).flatten(1))


def input_gradient(outputs: Outputs) -> Tensor:
    """Return the gradient of each example's loss by its inputs, ``(batch, numbers)``; it can be differentiated.

    :param outputs: of a pass whose inputs take a gradient; the task's loss is a mean over examples.
    """
    loss = outputs.task.loss(outputs.tree, outputs.batch)
    assert loss is not None
    (gradient,) = torch.autograd.grad(loss, outputs.batch.inputs, create_graph=True)
    return gradient.flatten(1) * len(gradient)  # type: ignore[no-any-return]
