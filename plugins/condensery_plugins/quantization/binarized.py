"""What the methods with one bit share: which layers they take, and room for signs in a net that has ReLUs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from condensery import NotApplicable, Stage, Transform, Weight, hookimpl
from condensery.nets import evaluating
from condensery.run import Defaults, Player
from condensery_plugins.quantization.calibration import SAMPLES, Plan
from condensery_plugins.quantization.quantizer import Quantizer
from condensery_plugins.quantization.rectifiers import MODULES as RECTIFIERS
from condensery_plugins.quantization.signs import ScaledSign


def input_signs(stochastic: bool = False) -> ScaledSign:
    """Return what gives the signs of an input; gradients pass within -1 and 1.

    :param stochastic: see :class:`.signs.ScaledSign`.
    """
    return ScaledSign(gradient="clip", stochastic=stochastic)


def attach_signs(
    stage: Stage, method: str, weights: Sequence[Weight], make: Callable[[], Transform] = input_signs
) -> None:
    """Let some layers see the signs of their inputs, where a ReLU leaves any.

    What ``nn.MultiheadAttention`` reads stays float: it has three inputs.

    :param weights: of those layers.
    :param make: returns what a layer's input becomes.
    :raises NotApplicable: naming a layer whose inputs are never negative.
    """
    paths = list(dict.fromkeys(w.path for w in weights if not isinstance(w.module, nn.MultiheadAttention)))
    unrectify(stage, method, paths)
    for path in paths:
        stage.attach(f"{path}:input", method, make())


def unrectify(stage: Stage, method: str, paths: Sequence[str]) -> None:
    """Take away the ReLU, or ReLU6, before each layer that sees no negative number: behind it all signs are the same.

    It is the one that a forward pass calls last before the layer, so that the sign comes right behind what stood before
    the ReLU, such as batch normalization. A shortcut that starts behind the same ReLU loses it too.

    :raises NotApplicable: naming the first layer for which there is no such module.
    """
    relus = _relus_before(stage, paths)
    for relu in dict.fromkeys(relu for relu in relus.values() if relu is not None):
        stage.replace(relu, nn.Identity())

    left = list(_relus_before(stage, paths)) if relus else []
    if left:
        why = "its sign says nothing: no ReLU module stands before it that could go"
        raise NotApplicable(method, f"the input of layer {left[0]!r} is never negative, so {why}; leave inputs float")


def _relus_before(stage: Stage, paths: Sequence[str]) -> dict[str, str | None]:
    """Return the layers that see no negative number on sampled data, and the path of the ReLU called last before."""
    net = stage.student.module
    last: list[str | None] = [None]
    least: dict[str, float] = {}
    before: dict[str, str | None] = {}

    def see(path: str, x: Tensor) -> None:
        least[path] = min(least.get(path, torch.inf), float(x.min()))
        before[path] = last[0]

    handles = [
        module.register_forward_pre_hook(lambda _, given, path=path: last.__setitem__(0, path))
        for path, module in net.named_modules()
        if isinstance(module, RECTIFIERS)
    ]
    handles += [
        net.get_submodule(path).register_forward_pre_hook(lambda _, given, path=path: see(path, given[0]))
        for path in paths
    ]
    with evaluating(net), torch.no_grad():
        for batch in stage.sample(SAMPLES):
            stage.task.outputs(net, batch)
    for handle in handles:
        handle.remove()
    return {path: before[path] for path, low in least.items() if low >= 0}


@dataclass(eq=False, kw_only=True)
class UnitWeights(Quantizer):
    """What BinaryConnect and BNN share: weights -1 and 1 without a scale, and rates of their own for latent weights.

    :param glorot: an optimizer's step of such a weight is multiplied by sqrt((inputs + outputs) / 1.5).
    :param restart: the latent weights start evenly drawn from -1 to 1.
    """

    glorot: bool = True
    restart: bool = False

    def plan(self) -> Plan:
        """Return that all weights have one bit."""
        return Plan(1, None, 1)

    def weight_quantizer(self, weight: Weight, bits: int) -> ScaledSign:
        """Return what holds a layer's weights at -1 and 1."""
        return ScaledSign(limited=True).start(weight.latent)

    @hookimpl
    def prepare(self, stage: Stage) -> None:
        """Hold all weights at -1 and 1, from new latent ones if that is asked for."""
        generator = torch.Generator().manual_seed(stage.seed)
        for weight in stage.weights() if self.restart else ():
            weight.latent.data.copy_(torch.rand(weight.latent.shape, generator=generator) * 2 - 1)
        self.quantize(stage)

    @hookimpl
    def optimizer(self, stage: Stage, player: Player, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Return the recipe's optimizer, with a group for each binary weight: its own rate, and no weight decay."""
        steps = {id(w.latent): _glorot(w.latent) if self.glorot else 1.0 for w in stage.weights(player.name)}
        own = [
            {**group, "params": [p], "lr": group["lr"] * steps[id(p)], "weight_decay": 0.0}
            for group in groups
            for p in group["params"]
            if id(p) in steps
        ]
        rest = [{**group, "params": [p for p in group["params"] if id(p) not in steps]} for group in groups]
        return Defaults().optimizer(stage=stage, player=player, groups=rest + own)


def _glorot(weight: Tensor) -> float:
    """Return the factor of a weight's step, from the numbers of its inputs and outputs, a kernel's area included."""
    return float(((weight.shape[0] + weight.shape[1]) * weight[0, 0].numel() / 1.5) ** 0.5)
