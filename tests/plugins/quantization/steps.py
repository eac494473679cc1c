"""One training step of the inner layer of a tiny net, whose weights, inputs and gradients a test knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tests.plugins.quantization.helpers import REGISTRY, stage_of
from torch import Tensor, nn

from condensery import Stage, Transform
from condensery.contract import StageManager, build_method
from condensery.nets import attached
from condensery.recipe import OptimizerSpec
from condensery.run import Defaults, Player

Rows = Sequence[Sequence[float]]

WEIGHT: Rows = ((0.5, -2.0), (1.0, 0.25))


class Three(nn.Module):
    """A first, an inner and a last layer; the inner one sees the net's input, moved by a number.

    :param weight: of the inner layer, ``(outputs, inputs)`` of a linear layer or ``(outputs, inputs, 1, places)``.
    """

    def __init__(self, weight: Tensor, moved: float) -> None:
        super().__init__()
        outputs, inputs, *kernel = weight.shape
        self.first, self.last = nn.Linear(2, inputs), nn.Linear(outputs, 1)
        self.inner = nn.Conv2d(inputs, outputs, (1, kernel[1])) if kernel else nn.Linear(inputs, outputs)
        with torch.no_grad():
            self.first.weight.copy_(torch.eye(inputs, 2))
            self.first.bias.fill_(moved)
            self.inner.weight.copy_(weight)
            self.inner.bias.zero_()  # type: ignore[union-attr]

    def forward(self, x: Tensor) -> Tensor:
        """Return logits, ``(batch, 1)``."""
        seen = self.first(x)
        if isinstance(self.inner, nn.Conv2d):
            seen = seen[:, :, None, None].expand(-1, -1, 1, self.inner.kernel_size[1])
        out: Tensor = self.last(self.inner(seen).flatten(1))
        return out


@dataclass(frozen=True)
class Step:
    """What one step made of the inner layer.

    :param weight: that the layer used; ``final`` the one out of training, after the step.
    :param outputs: the layer's; ``back`` the gradient of its inputs, ``gradient`` that of the latent weight.
    :param started: latent weight before the step; ``after`` the one behind it.
    """

    stage: Stage
    weight: Tensor
    outputs: Tensor
    back: Tensor
    gradient: Tensor
    started: Tensor
    after: Tensor
    final: Tensor

    @property
    def transforms(self) -> dict[str, Transform]:
        """What the method put on the net, by target."""
        return {item.target: item.transform for item in attached(self.stage.student.module)}


def step(
    key: str,
    settings: Mapping[str, Any],
    weight: Any = WEIGHT,
    x: Any = ((1.0, 1.0),),
    g: Any = ((1.0, 2.0),),
    *,
    lr: float = 0.1,
    moved: float = -0.5,
) -> Step:
    """Build a method as a recipe does, prepare a stage, and take a step with a given gradient of the inner outputs.

    :param weight: of the inner layer; ``x`` its input, ``(batch, inputs, ...)``, ``g`` the gradient of its outputs.
    :param moved: see :class:`Three`; what the layer sees on the task's examples is 0 or 1, and this added.
    """
    torch.manual_seed(0)
    stage = stage_of("mlp", "xor")
    stage.subset = None
    net = Three(torch.tensor(weight), moved)
    stage.players["student"] = player = Player("student", net, spec=stage.student.spec, trains=True)
    method = build_method(key, REGISTRY.load("methods", key), settings, REGISTRY.card(key))
    stage.manager = StageManager("stage", [(key, method)], Defaults())
    method.prepare(stage=stage)  # type: ignore[attr-defined]
    return _played(stage, player, torch.tensor(x), torch.tensor(g), lr)


def _played(stage: Stage, player: Player, x: Tensor, g: Tensor, lr: float) -> Step:
    """Play the inner layer on its input, go back with a gradient of its outputs, and update the player."""
    _, make = stage.manager.chosen("optimizer", "student")
    player.optimizer = make(stage=stage, player=player, groups=player.groups(OptimizerSpec(lr=lr)))

    player.module.train()
    layer = player.module.get_submodule("inner")
    (latent,) = (w.latent for w in stage.weights() if w.path == "inner")
    started, used = latent.detach().clone(), layer.weight.detach().clone()  # type: ignore[operator]
    x.requires_grad_()
    outputs = layer(x)
    (outputs * g).sum().backward()
    assert x.grad is not None
    assert latent.grad is not None
    back, gradient = x.grad.clone(), latent.grad.clone()

    stage.update(player)
    after = latent.detach().clone()
    player.module.eval()
    final = layer.weight.detach().clone()  # type: ignore[operator]
    return Step(stage, used, outputs.detach(), back, gradient, started, after, final)
