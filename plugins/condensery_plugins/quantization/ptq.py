from __future__ import annotations

from dataclasses import dataclass, field

from condensery import Stage, Weight, hookimpl
from condensery_plugins.quantization.calibration import SAMPLES, Plan, Seen
from condensery_plugins.quantization.corrections import channel_means, correct_biases, reestimate_norms, shiftable
from condensery_plugins.quantization.gradients import Estimator
from condensery_plugins.quantization.observers import Observer, Scheme, observer
from condensery_plugins.quantization.quantizer import BitQuantizer
from condensery_plugins.quantization.uniform import Granularity, Uniform, for_input, for_weight


@dataclass(eq=False, kw_only=True)
class PTQ(BitQuantizer):
    """Round weights and activations to uniform grids, whose ranges observers find from the trained net and examples.

    Post-training quantization as the survey describes it (section 1.2.2), put together from what is in general use:
    Krishnamoorthi: "Quantizing deep convolutional networks for efficient inference", 2018; the observers, see
    :mod:`.observers`; and what makes good for the shift that rounding brings, see :mod:`.corrections`.

    When: everything happens as the stage starts, on ``samples`` training examples without labels. With ``epochs: 0``
    that is all; otherwise the net trains on with its grids standing still, and ``estimator`` says how the gradient
    passes a rounding.

    End: the quantizers stay; an artifact holds codes in their width, and scales.

    Raises NotApplicable where a layer is quantized already, or no example is there.
    """

    key = "ptq"

    weight_bits: int = 8
    activation_bits: int | None = 8
    edge_bits: int | None = 8
    layer_bits: dict[str, int] = field(default_factory=dict)
    layer_activation_bits: dict[str, int] = field(default_factory=dict)
    observer: Observer = "min-max"
    weight_observer: Observer = "min-max"
    percent: float = 99.99
    granularity: Granularity = "channel"
    group: int = 64
    symmetric: bool = True
    embeddings: bool = False
    samples: int = SAMPLES
    reestimate_norms: bool = False
    correct_biases: bool = False
    estimator: Estimator = "clip"

    def plan(self) -> Plan:
        """Return the widths, and whether embeddings have one."""
        plan = Plan(self.weight_bits, self.activation_bits, self.edge_bits, self.embeddings)
        return plan._replace(layer_weights=self.layer_bits, layer_inputs=self.layer_activation_bits)

    @hookimpl
    def prepare(self, stage: Stage) -> None:
        """Attach the quantizers, and correct what they shifted, all on the same examples."""
        examples = stage.sample(self.samples)
        self.samples_ = sum(batch.size for batch in examples)
        paths = shiftable(stage).by_path if self.correct_biases else ()
        means = channel_means(stage, paths, examples)  # of the net in floats

        self.quantize(stage, examples)
        self.norms_ = reestimate_norms(stage, examples) if self.reestimate_norms else 0
        self.corrected_ = correct_biases(stage, means, examples)

    def weight_quantizer(self, weight: Weight, bits: int) -> Uniform:
        """Return grids on the ranges of the weights."""
        scheme = Scheme(bits, self.symmetric)
        observe = observer(self.weight_observer, self.percent)
        return for_weight(weight, scheme, observe, self.granularity, self.group, self.estimator)

    def input_quantizer(self, seen: Seen, bits: int) -> Uniform:
        """Return a grid on the range of what reached the layer."""
        observe = observer(self.observer, self.percent)
        return for_input(seen, bits, observe, symmetric=self.symmetric, estimator=self.estimator)

    @hookimpl
    def report(self, stage: Stage) -> dict[str, float]:
        """Return how many examples were seen, what was corrected, and the share of parameters that are quantized."""
        return {
            "samples_count": float(self.samples_),
            "reestimated_norms_count": float(self.norms_),
            "corrected_layers_count": float(self.corrected_),
            **super().report(stage),
        }
