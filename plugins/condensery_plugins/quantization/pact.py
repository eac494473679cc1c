from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from condensery import NotApplicable, Stage, Transform, Weight, hookimpl, straight_through
from condensery.nets import QUANTIZE, attached
from condensery_plugins.quantization.calibration import SAMPLES, Plan, Seen, flat, plan_bits, recorded
from condensery_plugins.quantization.observers import Scheme, mean_square, min_max
from condensery_plugins.quantization.quantizer import BitQuantizer
from condensery_plugins.quantization.rectifiers import Rectifiers, rectifiers
from condensery_plugins.quantization.signs import ScaledSign
from condensery_plugins.quantization.tanh_levels import TanhLevels, dorefa_levels
from condensery_plugins.quantization.uniform import for_input


class LearnedClip(Transform):
    """Cuts an activation off at 0 and at a learned number, and rounds it to evenly spaced levels in between.

    y = round(clip(x, 0, alpha) n / alpha) alpha / n, with n = 2^bits - 1. Gradients as in the paper's eq. 3: that of x
    passes where 0 < x < alpha, that of alpha where x >= alpha; that the levels depend on alpha too is left out.

    :param bits: width of a level's number.
    :param alpha: where it starts.
    :param decay: weight decay of alpha, in the optimizer's sense; ``None``: that of the weights.
    """

    key = "learned-clip"
    rank = QUANTIZE
    bits: int

    def __init__(self, bits: int, alpha: float = 10.0, decay: float | None = None) -> None:
        super().__init__()
        self.bits, self.decay = bits, decay
        self.alpha = nn.Parameter(torch.tensor(alpha))
        if decay is not None:
            self.settings = {"weight_decay": decay}  # read on the instance

    def forward(self, x: Tensor) -> Tensor:
        """Return the levels, of the activation's shape."""
        last = 2**self.bits - 1
        # By where, as clamp would give a number's end no gradient; what is not a number stays so.
        cut = torch.where(x >= self.alpha, self.alpha, x.relu())
        return straight_through((cut * (last / self.alpha)).round() * (self.alpha / last), cut)

    def settle(self, latent: Tensor | None) -> None:
        """Keep the end positive."""
        self.alpha.clamp_min_(1e-3)

    def config(self) -> dict[str, Any]:
        """Return width and decay."""
        return {"bits": self.bits, "decay": self.decay}


@dataclass(eq=False, kw_only=True)
class PACT(BitQuantizer):
    """Train a net whose ReLUs are cut off at a learned number and rounded, one number for each ReLU.

    Choi, Wang, Venkataramani, Chuang, Srinivasan, Gopalakrishnan: "PACT: Parameterized Clipping Activation for
    Quantized Neural Networks", 2018 [36]. Weights are DoReFa-Net's. The first and last layer stay float unless
    ``edge_bits`` is given, which holds for their weights and inputs: an input that is never negative on sampled data
    has a learned clip too, any other one, such as an image, an affine grid on the range that was seen.

    Loss: task + decay alpha^2 / 2 for each ReLU, as weight decay; without it alpha stays where it starts.

    When: from the start of the stage. ``start: null`` lets each alpha start where the error on sampled data is least,
    for nets that are trained already; the paper trains from scratch, from 10.

    End: quantizers stay; an artifact holds a code for each weight and a codebook for each layer.

    Raises NotApplicable where a layer is quantized already, where no example is there to see inputs on, and if none of
    the net's ReLUs is a module: what is called as a function can't be reached. A call like that beside modules is named
    in the report, and so is a ReLU that no example reaches.
    """

    key = "pact"

    activation_bits: int = 4
    start: float | None = 10.0
    decay: float | None = None

    def plan(self) -> Plan:
        """Return that no input has a quantizer: what ReLUs give has one."""
        return Plan(self.weight_bits, None, self.edge_bits)

    def weight_quantizer(self, weight: Weight, bits: int) -> TanhLevels | ScaledSign:
        """Return DoReFa-Net's quantizer."""
        return dorefa_levels(weight, bits)

    @hookimpl
    def prepare(self, stage: Stage) -> None:
        """Attach the quantizers: to weights, behind ReLUs, and to the inputs of the edges where they are asked for."""
        found = rectifiers(stage)
        bits = plan_bits(stage, self.activation_bits, self.edge_bits)
        taken = {relu: bits[layer] for relu, layer in found.modules.items() if layer in bits}
        if not taken:
            raise NotApplicable(self.key, _why_none(found))
        self.unreached_ = found.functions

        edges = stage.edges() if self.edge_bits is not None else ()
        seen = recorded(stage, self.key, [*taken, *edges], stage.sample(SAMPLES))  # of the net in floats
        self.quantize(stage)
        for relu, width in taken.items():
            if relu in seen:
                stage.attach(f"{relu}:output", self.key, self._clip(seen[relu], width))
            else:
                stage.left_out[f"{relu}:output"] = "stays float: no float reaches it on sampled examples"
        for path in edges:
            if path in seen:
                stage.attach(f"{path}:input", self.key, self._edge(seen[path], bits[path]))

    def _clip(self, seen: Seen, bits: int) -> LearnedClip:
        """Return a clip for what reached a ReLU, or a layer."""
        alpha = _best_end(flat(seen), bits) if self.start is None else self.start
        return LearnedClip(bits, alpha, self.decay)

    def _edge(self, seen: Seen, bits: int) -> Transform:
        """Return a quantizer for an edge's input.

        What was seen of a net with random weights says nothing of the range of what it computes later, so only what
        it is given has a range that stands still.
        """
        if bool((flat(seen) < 0).any()):
            return for_input(seen, bits, min_max, symmetric=False)
        return self._clip(seen, bits)

    @hookimpl
    def report(self, stage: Stage) -> dict[str, float]:
        """Return the mean alpha, how many ReLUs have one, where others are called that have none, and the share."""
        clips = [a.transform for a in attached(stage.student.module) if isinstance(a.transform, LearnedClip)]
        return {
            "clips_count": float(len(clips)),
            "alpha_mean": sum(float(clip.alpha.detach()) for clip in clips) / len(clips),
            **{f"unreached_relu_count.{path or 'net'}": 1.0 for path in self.unreached_},
            **super().report(stage),
        }


def _best_end(x: Tensor, bits: int) -> float:
    """Return the end of a ReLU's output with the smallest error, from what reaches the ReLU."""
    high = mean_square([x.relu()], Scheme(bits, signed=False))[1]
    return max(float(high), 1e-3)


def _why_none(found: Rectifiers) -> str:
    """Return why no ReLU can be cut off."""
    if found.functions:
        where = ", ".join(repr(path) if path else "the net itself" for path in found.functions)
        return f"ReLU is called as a function, which can't be reached, in {where}; make it an nn.ReLU"
    return "the net has no ReLU before an inner layer" if found.modules else "the net has no ReLU"
