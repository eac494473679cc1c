from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from condensery import Stage, Transform, Weight, hookimpl, straight_through
from condensery.nets import Coding
from condensery_plugins.codecs.affine import Affine
from condensery_plugins.codecs.moved import Moved, from_rows, rows_along
from condensery_plugins.quantization.affine import Grid, signed_ends
from condensery_plugins.quantization.calibration import Plan, Seen, flat, refuse_scattered_filters
from condensery_plugins.quantization.corrections import reestimate_norms
from condensery_plugins.quantization.quantizer import Quantizer
from condensery_plugins.quantization.signs import ScaledTernary
from condensery_plugins.quantization.uniform import Uniform

SCALE_BITS = 8


def fixed_point(largest: Tensor, bits: int, signed: bool) -> Grid:
    """Return the dynamic fixed-point grid of a range: its step is the smallest power of two that cuts nothing off.

    :param largest: absolute value, shape ``()``; where it is 0 the step is 1.
    :param signed: codes on both sides of zero.
    """
    first, last = signed_ends(bits) if signed else (0, 2**bits - 1)
    mantissa, exponent = torch.frexp(largest / last)
    exact = (mantissa == 0.5) | (mantissa == 0)  # a power of two is its own ceiling
    step = torch.ldexp(torch.ones_like(largest), exponent - exact.to(exponent.dtype))
    return Grid(torch.where(largest > 0, step, 1.0), torch.zeros_like(largest), first, last)


class FineTernary(ScaledTernary):
    """A scale times -1, 0 or 1 for each few neighbours along the inputs, and the scales themselves in eight bits.

    Of a group the k largest stay, for the k with the least squared error; the scale is their mean size, rounded to a
    fixed-point number of the layer. Both are found anew in each pass, and the gradient goes to the latent weight as it
    is. A group that is all zero stays so.

    :param size: weights of a group; the last one of an output may be smaller.
    :param inputs: the dimension of the layer's inputs, along which neighbours lie.
    """

    key = "fine-ternary"

    def __init__(self, size: int, inputs: int) -> None:
        super().__init__(size=size, factor=None)
        self.inputs = inputs

    def forward(self, value: Tensor) -> Tensor:
        """Return the values, of the weight's shape."""
        with torch.no_grad():
            out = super().forward(rows_along(value, self.inputs))
            groups = self.groups.split(out)
            scales = groups.abs().amax(1, keepdim=True)
            grid = fixed_point(scales.amax(), SCALE_BITS, signed=False)

            rounded = groups.sign() * grid.values(grid.codes(scales))
            rounded = from_rows(self.groups.join(rounded, out), value.shape, self.inputs)
        return straight_through(rounded.to(value.dtype), value)

    def holds(self, final: Tensor) -> str | None:
        """Check that a group has one positive and one negative value at most."""
        return super().holds(rows_along(final, self.inputs))

    def config(self) -> dict[str, Any]:
        """Return the groups."""
        return {"size": self.groups.size, "inputs": self.inputs}

    def code(self, coding: Coding, final: Tensor) -> Coding:
        """Return ternary codes, 1.6 bits each, and scales of eight bits, in the order of the groups."""
        inner = super().code(coding, rows_along(final, self.inputs))
        step = fixed_point(final.detach().float().abs().amax(), SCALE_BITS, signed=False).scale
        scales = Coding(Affine(SCALE_BITS, step, zero=0))
        return Coding(Moved(self.inputs), {Moved.main: Coding(inner.codec, {**inner.parts, "scale": scales})})


@dataclass(eq=False, kw_only=True)
class FGQ(Quantizer):
    """Round a trained net's weights to ternary ones in groups of a few, each with a scale of its own.

    Mellempudi, Kundu, Mudigere, Das, Kaul, Dubey: "Ternary Neural Networks with Fine-Grained Quantization", 2017 (an
    alternative for [28]). A group is ``group`` neighbours along the input channels of a filter, at one place of its
    kernel. Its k largest weights become their mean size with their sign and the others 0, with the k that leaves the
    least squared error. Scales have eight bits; the first layer's weights are fixed-point numbers of eight bits, and so
    are all inputs, which ``activation_bits`` says otherwise for all but those of the first and the last layer.

    When: everything happens as the stage starts, and batch normalizations then average anew over ``samples`` training
    images. ``epochs: 0`` is the paper's way for groups of 4; those of 64 are trained on, with the groups found anew in
    each pass.

    End: an artifact holds ternary codes, 1.6 bits each, and a byte for each group: in groups of 4 that makes 3.6 bits
    for a weight.

    Raises NotApplicable where a layer is quantized already, where one other than the first is a transposed convolution
    in groups, or no example is there.
    """

    key = "fgq"

    group: int = 4
    activation_bits: int | None = 8
    edge_bits: int = 8
    samples: int = 2048
    reestimate_norms: bool = True

    def plan(self) -> Plan:
        """Return the widths; a ternary weight counts two bits."""
        return Plan(2, self.activation_bits, self.edge_bits)

    @hookimpl
    def prepare(self, stage: Stage) -> None:
        """Attach the quantizers, and let batch normalizations follow."""
        self.first_ = stage.edges()[0]
        self.quantize(stage)
        self.norms_ = reestimate_norms(stage, stage.sample(self.samples)) if self.reestimate_norms else 0

    def weight_quantizer(self, weight: Weight, bits: int) -> Transform:
        """Return ternary groups, or of the first layer a fixed-point grid."""
        if weight.path == self.first_:
            return Uniform.on(fixed_point(weight.latent.detach().abs().amax(), bits, signed=True), bits)
        refuse_scattered_filters(self.key, weight)
        return FineTernary(self.group, weight.axes[1])

    def input_quantizer(self, seen: Seen, bits: int) -> Uniform:
        """Return a fixed-point grid; what is never negative gets no negative codes."""
        values = flat(seen)
        return Uniform.on(fixed_point(values.abs().amax(), bits, signed=bool((values < 0).any())), bits)

    @hookimpl
    def report(self, stage: Stage) -> dict[str, float]:
        """Return how many norms averaged anew, and the share of the net's parameters that are quantized."""
        return {"reestimated_norms_count": float(self.norms_), **super().report(stage)}
