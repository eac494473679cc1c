"""The base class of the methods that hold weights, and what layers read, at few values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import nn

from condensery import Batch, Method, Stage, Transform, Weight, hookimpl
from condensery.nets import Weights
from condensery_plugins.quantization.calibration import Plan, Seen, quantize_layers

Edges = Literal["float", "quantized"]


@dataclass(eq=False, kw_only=True)
class Quantizer(Method):
    """Puts a quantizer on each layer's weights, and one on its input, as the stage starts; they stay.

    A method says what a quantizer is, one of a weight and one of an input, and the base class does the rest: which
    layers there are, what is refused, the examples that inputs are seen on, and the report. This is a whole method,
    which rounds to evenly spaced levels, as far as the largest number of a layer reaches::

        @dataclass(eq=False, kw_only=True)
        class Rounding(BitQuantizer):
            key = "rounding"

            weight_bits: int = 8
            activation_bits: int | None = 8

            def weight_quantizer(self, weight: Weight, bits: int) -> Transform:
                return for_weight(weight, Scheme(bits), min_max)

            def input_quantizer(self, seen: Seen, bits: int) -> Transform:
                return for_input(seen, bits, min_max)

    Raises NotApplicable where a layer is quantized already, where its weights aren't finite or are of half precision,
    and if no layer is left between a first and a last one that stay float.
    """

    needs = frozenset({"float-weights"})
    leaves = frozenset({"quantized-weights", "quantized-activations"})
    removes = frozenset({"float-weights"})

    counts_zeros: ClassVar[bool] = False
    """The report says how many of the quantized weights are zero."""

    def plan(self) -> Plan:
        """Return which tensors get how many bits."""
        raise NotImplementedError

    def weight_quantizer(self, weight: Weight, bits: int) -> Transform:
        """Return a quantizer for one layer's weight, started from ``weight.latent``."""
        raise NotImplementedError

    def input_quantizer(self, seen: Seen, bits: int) -> Transform:
        """Return a quantizer for one layer's input; called only if the plan has bits for inputs.

        :param seen: what reached the layer on the examples, a tensor for each call, ``(batch, ...)``.
        """
        raise NotImplementedError

    @hookimpl
    def prepare(self, stage: Stage) -> None:
        """Attach the quantizers."""
        self.quantize(stage)

    def quantize(self, stage: Stage, examples: Sequence[Batch] | None = None) -> None:
        """Attach the quantizers.

        :param examples: that inputs are seen on; by default some that are sampled here.
        """
        quantize_layers(stage, self.key, self.plan(), self.weight_quantizer, self.input_quantizer, examples)

    def held(self, stage: Stage) -> Weights:
        """Return the weights that carry a quantizer of this method, embeddings last."""
        weights = [*stage.weights(), *stage.weights(kinds=(nn.Embedding,))]
        return Weights(w for w in weights if w.stack is not None and self.key in w.stack.transforms)

    @hookimpl
    def report(self, stage: Stage) -> dict[str, float]:
        """Return the share of the net's parameters that are quantized, and with it that of zeros, in percent."""
        held = self.held(stage)
        counted = {}
        if self.counts_zeros:
            zeros = sum(int((weight.value == 0).sum()) for weight in held)
            counted["zeros_percent"] = 100 * zeros / max(1, sum(weight.latent.numel() for weight in held))
        return {**counted, **stage.reached(held)}


@dataclass(eq=False, kw_only=True)
class BitQuantizer(Quantizer):
    """A quantizer whose widths are settings: of inner layers' weights, of their inputs, and of the edges."""

    weight_bits: int = 4
    activation_bits: int | None = 4
    edge_bits: int | None = None

    def plan(self) -> Plan:
        """Return the widths as they are set."""
        return Plan(self.weight_bits, self.activation_bits, self.edge_bits)


@dataclass(eq=False, kw_only=True)
class FixedWidth(Quantizer):
    """A quantizer of weights whose width is the method's own, such as a sign's.

    :param edges: what becomes of the first and the last layer.
    """

    leaves = frozenset({"quantized-weights"})

    edges: Edges = "float"

    def plan(self) -> Plan:
        """Return which layers take part; the number of bits tells a maker nothing."""
        return Plan(1, None, None if self.edges == "float" else 1)
