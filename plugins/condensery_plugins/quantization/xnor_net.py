from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from condensery import Layer, Stage, hookimpl
from condensery.nets import StandIn, attach, attached, latent_of
from condensery_plugins.quantization.binarized import attach_signs, unrectify
from condensery_plugins.quantization.bwn import BWN
from condensery_plugins.quantization.folded_layers import geometry_of
from condensery_plugins.quantization.gradients import clipped
from condensery_plugins.quantization.signs import sign


class InputScaledConv2d(Layer, nn.Conv2d):
    """A convolution of its input's signs, whose output is scaled by the mean size of the input under the kernel.

    Rastegari et al. [26], section 3.2: the scales K are the mean over the channels of the input's absolute value,
    through a convolution with a kernel of equal weights that add up to 1. Each group of a convolution has a K of its
    own channels, those that its filters see. Gradients pass through the signs where the input is within -1 and 1; K has
    none.

    :param geometry: the arguments of the plain layer, JSON data.
    """

    key = "input-scaled-conv2d"

    def __init__(self, geometry: dict[str, Any]) -> None:
        super().__init__(**geometry)

    def config(self) -> dict[str, Any]:
        """Return the plain layer's arguments."""
        return {"geometry": geometry_of(self)}

    def scales(self, x: Tensor) -> Tensor:
        """Return K, ``(batch, groups, height, width)`` of the output, for ``(batch, channels, height, width)``."""
        sizes = x.detach().abs().reshape(len(x), self.groups, x.shape[1] // self.groups, *x.shape[2:]).mean(2)
        area = self.kernel_size[0] * self.kernel_size[1]
        kernel = sizes.new_full((self.groups, 1, *self.kernel_size), 1 / area)
        return functional.conv2d(sizes, kernel, None, self.stride, self.padding, self.dilation, self.groups)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output, of the plain layer's shape."""
        signs = clipped(sign(x), x)
        out = functional.conv2d(signs, self.weight, None, self.stride, self.padding, self.dilation, self.groups)
        out = out * self.scales(x).repeat_interleave(out.shape[1] // self.groups, 1)
        return out if self.bias is None else out + self.bias.view(-1, 1, 1)

    def stand_in(self) -> StandIn:
        """Return the plain convolution."""
        made = nn.Conv2d(**geometry_of(self))
        made.weight = nn.Parameter(self.weight.detach().clone())
        names = ["weight"]
        if self.bias is not None and made.bias is not None:
            made.bias = nn.Parameter(self.bias.detach().clone())
            names.append("bias")
        return StandIn(made, {name: (name,) for name in names})


@dataclass(eq=False, kw_only=True)
class XNORNet(BWN):
    """Train a net whose weights are signs times the mean size of their filter, and whose inner inputs are signs.

    Rastegari, Ordonez, Redmon, Farhadi: "XNOR-Net: ImageNet Classification Using Binary Convolutional Neural Networks",
    ECCV 2016 [26]. Weights as in the Binary-Weight-Network. The sign must come right behind batch normalization and
    right before the layer, so a ReLU module in between is taken away. ``input_scale`` multiplies each output of a
    convolution by the mean size of the input under the kernel; the released code leaves that out, at a cost under a
    point.

    When: the signs act from the start of the stage; latent weights are centred and cut off after each step.

    End: an artifact holds the signs of the weights, one bit each, and a scale for each filter.

    Raises NotApplicable where a layer is quantized already or is a transposed convolution in groups, where the net has
    no layer between the first and the last, and where a layer's input is never negative although no ReLU module stands
    before it.
    """

    key = "xnor-net"

    leaves = frozenset({"quantized-weights", "quantized-activations"})

    input_scale: bool = False

    @hookimpl
    def prepare(self, stage: Stage) -> None:
        """Hold weights and inputs at signs."""
        self.quantize(stage)
        first = stage.edges()[0]
        scaled = [w.path for w in self.held(stage) if self.input_scale and _scalable(w.module) and w.path != first]

        unrectify(stage, self.key, scaled)
        for path in scaled:
            _put(stage, path)
        attach_signs(stage, self.key, [w for w in self.held(stage) if w.path not in (first, *scaled)])


def _scalable(module: nn.Module) -> bool:
    """Tell whether a layer is a convolution that the one with scales can stand in for."""
    return isinstance(module, nn.Conv2d) and not isinstance(module, Layer) and module.padding_mode == "zeros"


def _put(stage: Stage, path: str) -> None:
    """Put a convolution that scales by its input in a plain one's place, what is attached to it moves along."""
    layer = stage.student.module.get_submodule(path)
    assert isinstance(layer, nn.Conv2d)
    made = InputScaledConv2d(geometry_of(layer)).train(layer.training)
    made.weight = latent_of(layer, "weight")
    if layer.bias is not None:
        made.bias = latent_of(layer, "bias")

    for item in attached(layer):
        attach(made, item.target, item.name, item.transform, keep=item.keep)
    stage.replace(path, made)
