from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from condensery import Batch, NotApplicable, Stage, Weight, hookimpl
from condensery.contract import Words
from condensery.nets import Weights, evaluating, latent_of
from condensery.recipe import derive_seed
from condensery_plugins.quantization.binarized import attach_signs
from condensery_plugins.quantization.calibration import refuse_quantized
from condensery_plugins.quantization.quantizer import Quantizer
from condensery_plugins.quantization.ternary_conversion import (
    Chain,
    chains,
    chances_of,
    look,
    rows_of,
    thresholds,
    units_of,
)
from condensery_plugins.quantization.ternary_firing import DrawnTernary, TernaryFiring, Thresholds
from condensery_plugins.quantization.ternary_split import fit_classes, fit_neuron, reachable


@dataclass(eq=False, kw_only=True)
class TNN(Quantizer):
    """Train a teacher whose units fire -1, 0 or 1, then turn layer after layer into whole sums with thresholds.

    Alemdar, Leroy, Prost-Boucle, Petrot: "Ternary Neural Networks for Resource-Efficient AI Applications", IJCNN 2017
    (an alternative for [30]). One phase a stage. ``teacher``: what an inner layer reads is squashed by tanh and fired,
    by chance in training, so that the mean is the tanh; a ReLU in between goes. ``weights: ternary`` draws weights in
    the same way, with the latent ones as means. ``student``, from its weights: of a layer with ternary weights the
    thresholds follow from batch normalization and bias. In one with real weights each unit gets the numbers of weights
    1 and -1, and the thresholds, by which it agrees most with the teacher's probabilities, on what the student's own
    layers before it make; the last layer is fitted to the labels. With ``first: float`` the first layer stays real,
    and its firing makes the input ternary; with ``ternary`` the input is rounded to -1, 0 and 1.

    When: in ``teacher`` from the start of the stage. In ``student`` all happens as the stage starts, with
    ``epochs: 0``, on ``samples`` training examples and ``places`` drawn places of each map.

    End: an artifact holds ternary codes, 1.6 bits each; batch normalizations and biases of converted layers are gone.

    Raises NotApplicable where a layer is quantized already, where a layer's input is never negative although no ReLU
    module stands before it, and in ``student`` if no layer can be converted. A layer whose outputs aren't fired right
    behind batch normalization, as before a sum, stays as the teacher has it; the report names it.
    """

    key = "tnn"

    phase: Literal["teacher", "student"] = "teacher"
    weights: Literal["ternary", "real"] = "ternary"
    first: Literal["float", "ternary"] = "float"
    samples: int = 2048
    places: int = 4
    widest: int = 64

    def words(self) -> Words:
        """Return what the phase needs and leaves."""
        fires, held, free = (frozenset({w}) for w in ("quantized-activations", "quantized-weights", "float-weights"))
        if self.phase == "student":
            return Words(fires, held, free)
        return Words(free, fires | held, free) if self.weights == "ternary" else Words(free, fires, frozenset())

    @hookimpl
    def prepare(self, stage: Stage) -> None:
        """Let the teacher fire, or convert it."""
        self.first_ = "" if self.first == "ternary" else stage.edges()[0]
        self.converted_, self.agreement_ = 0, [0.0, 0.0]
        if self.phase == "teacher":
            self._teach(stage)
        else:
            self._convert(stage)

    def _inner(self, stage: Stage) -> Weights:
        """Return the weights that are or become ternary."""
        return Weights(w for w in stage.weights() if w.path != self.first_)

    # ---------------------------------------------------------------- the teacher

    def _teach(self, stage: Stage) -> None:
        """Put a firing before each layer but the first, and on the weights where they are to be drawn."""
        inner, first = self._inner(stage), stage.edges()[0]
        if not inner:
            raise NotApplicable(self.key, "the net has no layer behind the first, which stays float")
        for weight in inner:
            refuse_quantized(self.key, weight)
            if self.weights == "ternary":
                self._hold(stage, weight)

        attach_signs(stage, self.key, [w for w in inner if w.path != first], TernaryFiring)
        if self.first == "ternary":
            stage.attach(f"{first}:input", self.key, TernaryFiring(squashed=False))

    def _hold(self, stage: Stage, weight: Weight) -> None:
        """Let a weight be drawn from now on; of a latent one that is ternary, what is drawn is itself."""
        made = DrawnTernary(list(weight.latent.shape))
        seed = derive_seed(self.key, stage.seed, weight.name)
        stage.attach(weight.name, self.key, made.start(weight.latent.data, seed))

    # ---------------------------------------------------------------- the student

    def _convert(self, stage: Stage) -> None:
        """Convert the layers in the order of their calls, each behind those before it."""
        net, last = stage.student.module, stage.edges()[1]
        inner = self._inner(stage).by_path
        for weight in inner.values():
            if (own := self._drawn(weight)) is not None:
                self._set(stage, weight, own.last)  # nothing is drawn from now on
        order = [path for path in stage.order() if path in inner and path != last]
        found = chains(stage, order)
        examples = stage.sample(self.samples)

        # The teacher's own units, on its own inputs, before any layer of it changes.
        seen = {}
        for path, chain in found.items():
            if isinstance(chain, Chain) and not self._drawn(inner[path]):
                layer, calls = net.get_submodule(path), look(stage, examples, path, chain.end)
                seen[path] = torch.cat([units_of(layer, y, self.places, stage.seed) for _, y in calls])

        for path, chain in found.items():
            if not isinstance(chain, Chain):
                stage.left_out[path] = f"stays as the teacher has it: {chain}"
            elif path in seen:
                self._fit(stage, inner[path], chain, examples, seen[path])
            else:
                self._invert(stage, inner[path], chain)
        if not self.converted_:
            raise NotApplicable(self.key, "no layer's outputs are fired right behind it or its batch normalization")
        if not self._drawn(inner[last]):
            self._fit_last(stage, inner[last], examples)

    def _drawn(self, weight: Weight) -> DrawnTernary | None:
        """Return what draws a weight, if it is drawn."""
        found = () if weight.stack is None else weight.stack.transforms.values()
        return next((t for t in found if isinstance(t, DrawnTernary)), None)

    def _invert(self, stage: Stage, weight: Weight, chain: Chain) -> None:
        """Find the thresholds of a layer with ternary weights from its batch normalization and bias."""
        net, own = stage.student.module, self._drawn(weight)
        norm = None if chain.norm is None else net.get_submodule(chain.norm)
        assert norm is None or isinstance(norm, _BatchNorm)
        assert own is not None

        bias = getattr(weight.module, "bias", None)
        held = own.last
        flip, low, high = thresholds(norm, bias, len(held), held[0].numel())
        self._settle(stage, weight, torch.where(flip.view(-1, *[1] * (held.dim() - 1)), -held, held), low, high, chain)

    def _fit(self, stage: Stage, weight: Weight, chain: Chain, examples: Sequence[Batch], units: Tensor) -> None:
        """Find ternary weights and thresholds for each unit of a layer with real weights."""
        rows = self._rows(stage, weight, examples)
        real = weight.latent.detach().flatten(1).cpu()

        split, low, high = torch.zeros_like(real), torch.zeros(len(real)), torch.zeros(len(real))
        for unit, values in enumerate(real):
            chances = chances_of(units[:, unit].cpu())
            neuron, cut = fit_neuron(values, rows, chances, self.widest)
            split[unit], low[unit], high[unit] = neuron.weights, cut.low, cut.high
            self.agreement_ = [self.agreement_[0] + cut.score, self.agreement_[1] + reachable(chances)]
        self._settle(stage, weight, split.view_as(weight.latent), low, high, chain)

    def _rows(self, stage: Stage, weight: Weight, examples: Sequence[Batch]) -> Tensor:
        """Return what a layer of the student is given now, ``(rows, inputs)``."""
        calls = look(stage, examples, weight.path)
        return torch.cat([rows_of(weight.module, x, self.places, stage.seed) for x, _ in calls]).cpu()

    def _settle(self, stage: Stage, weight: Weight, ternary: Tensor, low: Tensor, high: Tensor, chain: Chain) -> None:
        """Let a layer have ternary weights, thresholds behind it and neither bias nor norm."""
        self._set(stage, weight, ternary)
        if getattr(weight.module, "bias", None) is not None:
            latent_of(weight.module, "bias").data.zero_()
        if chain.norm is not None:
            stage.replace(chain.norm, nn.Identity())

        shape = [-1, *[1] * (weight.latent.dim() - 2)]
        stage.attach(f"{weight.path}:output", self.key, Thresholds.of(low.view(shape), high.view(shape)))
        self.converted_ += 1

    def _set(self, stage: Stage, weight: Weight, ternary: Tensor) -> None:
        """Hold a weight at given ternary values."""
        weight.latent.data.copy_(ternary)
        own = self._drawn(weight)
        if own is None:
            self._hold(stage, weight)
        else:
            own.last = weight.latent.detach().clone()

    def _fit_last(self, stage: Stage, weight: Weight, examples: Sequence[Batch]) -> None:
        """Fit the last layer's classes to the labels, where it has some and they are one number for each example."""
        labels = [batch.labels for batch in examples]
        single = all(isinstance(found, Tensor) and found.dim() == 1 for found in labels)
        if not single or not isinstance(weight.module, nn.Linear) or weight.module.bias is None:
            stage.left_out[weight.path] = "stays as the teacher has it: it is fitted to labels, one for each example"
            return

        rows = self._rows(stage, weight, examples)
        ternary, bias = fit_classes(weight.latent.detach().cpu(), rows, torch.cat(labels).cpu(), self.widest)
        self._set(stage, weight, ternary)
        latent_of(weight.module, "bias").data.copy_(bias)

    @hookimpl
    def report(self, stage: Stage) -> dict[str, float]:
        """Return what was converted, how near to the best agreement, and the shares of zeros and of parameters."""
        held = self.held(stage)
        if not held:
            return {}
        found = {"converted_layers_count": float(self.converted_)} if self.phase == "student" else {}
        if self.agreement_[1]:
            found["agreement_percent"] = 100 * self.agreement_[0] / self.agreement_[1]
        with evaluating(stage.student.module):  # in training, a look would draw anew
            zeros = sum(int((weight.value == 0).sum()) for weight in held)
        found["zeros_percent"] = 100 * zeros / sum(weight.latent.numel() for weight in held)
        return {**found, **stage.reached(held)}
