from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import adaptive_max_pool2d

from condensery import Method, NotApplicable, Stage, hookimpl
from condensery.nets import TapValues
from condensery.run import Outputs, Player
from condensery_plugins.distillation.adapters import aligned, unpadded
from condensery_plugins.distillation.layer_maps import LayerMap, fitting, tapped_pairs, tapped_values
from condensery_plugins.distillation.pairs import warnings_of


@dataclass(eq=False, kw_only=True)
class FSP(Method):
    """Start a student that turns each stage's input into its output as the teacher does: the flow of the solution.

    Yim, Joo, Bae, Kim: "A Gift from Knowledge Distillation: Fast Optimization, Network Minimization and Transfer
    Learning", CVPR 2017 [46]. The FSP matrix of a layer holds, for each channel of its input and each of its output,
    the mean over positions of their product; of two sizes the larger map is max-pooled first.

    Loss: the squared distance of the matrices alone, no labels: the sum over their entries and over the layers, times
    ``weight``, and the mean over the batch.

    When: a stage of its own, with a small rate and the student in train mode; a stage without a method, on the labels,
    follows it. What lies above the last layer, as the classifier, isn't touched.

    Raises NotApplicable without a teacher or for several, without stages where no layers are named, and where student
    and teacher haven't as many channels.
    """

    key = "fsp"

    needs = frozenset({"teacher"})

    weight: float = 1.0
    layers: dict[str, str] = field(default_factory=dict)
    layer_map: LayerMap = "skip"

    @hookimpl
    def prepare(self, stage: Stage) -> None:
        """Tap the layers' inputs and outputs, and check that the matrices have the same shape."""
        self.pairs_ = tapped_pairs(stage, self.key, self.layers, self.layer_map)
        for one, other in self.pairs_:
            stage.student.tap(f"{one}:input")
            stage.teachers[0].tap(f"{other}:input")

        mine, theirs = tapped_values(stage)
        for one, other in self.pairs_:
            with fitting(self.key):
                shapes = [list(flow(*pair).shape[1:]) for pair in ((mine, one), (theirs, other))]
            if shapes[0] != shapes[1]:
                raise NotApplicable(
                    self.key,
                    f"{one} of the student goes from {shapes[0][0]} to {shapes[0][1]} channels, {other} of the teacher "
                    f"from {shapes[1][0]} to {shapes[1][1]}; both must have as many",
                )

    @hookimpl
    def loss_terms(self, stage: Stage, outputs: Mapping[str, Outputs], player: Player) -> dict[str, Tensor]:
        """Return the squared distance of the matrices, already times its weight."""
        nets, inputs = (outputs[player.name], outputs[stage.teachers[0].name]), outputs[player.name].batch.inputs
        apart = []
        for pair in self.pairs_:
            mine, theirs = (flow(net.taps, path, inputs) for net, path in zip(nets, pair, strict=True))
            apart.append((mine - theirs).square().sum((1, 2)).mean())
        return {"flow": self.weight * torch.stack(apart).sum()}

    @hookimpl
    def task_weight(self) -> float:
        """Leave the labels to the next stage."""
        return 0.0

    @hookimpl
    def report(self, stage: Stage) -> dict[str, float]:
        """Return what speaks against this pair of teacher and student."""
        return warnings_of(stage)


def flow(taps: TapValues, path: str, inputs: Any = None) -> Tensor:
    """Return a layer's FSP matrices, ``(batch, channels of its input, channels of its output)``.

    :param taps: with the layer's input and output.
    :param inputs: of the batch; what is padding in a text is no position.
    """
    maps, share = unpadded(inputs, *aligned(taps[f"{path}:input"], taps[path], adaptive_max_pool2d))
    before, after = (one.flatten(2) for one in maps)
    real = share[:, None, None] if isinstance(share, Tensor) else share
    return before @ after.transpose(1, 2) / (before.shape[2] * real)
