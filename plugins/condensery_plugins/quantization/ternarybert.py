from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from condensery import NotApplicable, Stage, Transform, UsageError, Weight, hookimpl
from condensery.run import Outputs, Player
from condensery.surgery.attention import Attention, view_of
from condensery_plugins.distillation.layer_maps import tapped_pairs
from condensery_plugins.distillation.pairs import refuse_other_classes, warnings_of
from condensery_plugins.distillation.softened import divergence, softened
from condensery_plugins.quantization.calibration import Plan, Seen, refuse_quantized
from condensery_plugins.quantization.dynamic_range import LIMIT, DynamicRange, limited
from condensery_plugins.quantization.quantizer import Quantizer
from condensery_plugins.quantization.signs import ScaledTernary, best_threshold

MASKED = -100.0
"""Attention scores up to this are those of tokens that are masked out."""


class BoundedTernary(ScaledTernary):
    """A scale times -1, 0 or 1 of weights that are cut off at a limit, beyond which they get no gradient.

    :param axis: one threshold and scale for each index of this dimension; ``None``: one for the tensor.
    """

    key = "bounded-ternary"

    def __init__(self, axis: int | None = None) -> None:
        super().__init__(axis)

    def forward(self, value: Tensor) -> Tensor:
        """Return the values, of the tensor's shape."""
        return limited(super().forward(value.detach().clamp(-LIMIT, LIMIT)), value)

    def config(self) -> dict[str, Any]:
        """Return what shares a scale."""
        return {"axis": self.groups.axis}


class LossAwareTernary(BoundedTernary):
    """Threshold and scale with the least error where each weight's counts by the loss's curvature along it.

    With d the curvature, the k largest weights stay, for the k with the least sum of d (w - q)^2; the scale is their
    mean size, weighted by d. The best levels of any scale are such a set, so that no search is needed.

    :param shape: of the weight.
    """

    key = "loss-aware-ternary"
    curvature: Tensor

    def __init__(self, shape: list[int], axis: int | None = None) -> None:
        super().__init__(axis)
        self.register_buffer("curvature", torch.ones(shape))

    def forward(self, value: Tensor) -> Tensor:
        """Return the values, of the tensor's shape."""
        with torch.no_grad():
            rows = self.groups.split(value.clamp(-LIMIT, LIMIT))
            sizes, counts = rows.abs(), self.groups.split(self.curvature)
            kept = counts * ((sizes >= best_threshold(sizes, counts)) & (sizes > 0))
            scale = (sizes * kept).sum(1, keepdim=True) / kept.sum(1, keepdim=True).clamp_min(
                torch.finfo(kept.dtype).tiny
            )
            out = self.groups.join(scale * rows.sign() * (kept > 0), value)
        return limited(out.to(value.dtype), value)

    def follow(self, moment: Tensor) -> None:
        """Take the root of Adam's second moment, of the weight's shape, as curvature."""
        self.curvature.copy_(moment.sqrt() + 1e-8)  # Adam's own divisor

    def config(self) -> dict[str, Any]:
        """Return shape and what shares a scale."""
        return {"shape": list(self.curvature.shape), **super().config()}


@dataclass(eq=False, kw_only=True)
class TernaryBERT(Quantizer):
    """Train a Transformer with ternary weights to do inside what its float net, the teacher, does.

    Zhang, Hou, Yin, Shang, Chen, Jiang, Liu: "TernaryBERT: Distillation-aware Ultra-low Bit BERT", EMNLP 2020 [30]. The
    word embedding is ternary with a scale for each word, each linear layer with one scale; ``weights`` says how: TWN's
    threshold, the loss-aware one, or eight bits. The inputs of these layers, and queries, keys and values, have
    ``activation_bits``. Other embeddings, norms, biases and the classifier stay float.

    Loss: ``hidden`` times the mean squared distance of the embeddings' output and of each layer's, + ``attention``
    times that of each layer's attention scores, those before the softmax, masked ones left out, + ``logits`` times
    KL(teacher || student). No labels.

    When: the student starts from the teacher's weights. Thresholds, scales and ranges are found anew in each pass. With
    ``weights: lat`` the curvature is the root of Adam's second moment, after each step.

    End: an artifact holds ternary codes, 1.6 bits each, and the scales; ranges of activations are found as it runs.

    Raises NotApplicable without a teacher that has the same layers and classes, without attention, where the first
    layer is no table of embeddings, where a layer is quantized already, and with ``lat`` for an optimizer other than
    Adam's kind.
    """

    key = "ternarybert"

    needs = frozenset({"float-weights", "teacher", "classifier-logits", "attention"})

    weights: Literal["twn", "lat", "8-bit"] = "twn"
    activations: Literal["asymmetric", "symmetric"] = "asymmetric"
    activation_bits: int | None = 8
    hidden: float = 1.0
    attention: float = 1.0
    logits: float = 1.0

    def plan(self) -> Plan:
        """Return the widths; the first layer is a table of embeddings, and the classifier stays float."""
        return Plan(8 if self.weights == "8-bit" else 2, self.activation_bits, None)

    @hookimpl
    def prepare(self, stage: Stage) -> None:
        """Tap what is distilled, and attach the quantizers."""
        refuse_other_classes(stage, self.key)
        words = self._words(stage)
        self.pairs_ = tapped_pairs(stage, self.key, {}, "one-to-one")
        self.pairs_.append((f"{self.pairs_[0][0]}:input", f"{self.pairs_[0][1]}:input"))
        for player, path in zip((stage.student, stage.teachers[0]), self.pairs_[-1], strict=True):
            player.tap(path)
            player.tap("scores")
        projections = self._projections(stage)

        self.quantize(stage)
        stage.attach(words.name, self.key, self._made(words, 0))
        for path in projections if self.activation_bits is not None else ():
            stage.attach(f"{path}:output", self.key, self.input_quantizer([], self.activation_bits or 0))

    def _words(self, stage: Stage) -> Weight:
        """Return the table of the word embedding, the first that is called.

        :raises NotApplicable: if a net's first layer is none.
        """
        first = stage.edges()[0]
        tables = stage.weights(kinds=(nn.Embedding,)).by_path
        if first not in tables:
            raise NotApplicable(self.key, f"the net's first layer, {first!r}, is no table of embeddings")
        refuse_quantized(self.key, tables[first])
        return tables[first]

    def _projections(self, stage: Stage) -> list[str]:
        """Return the layers that make queries, keys and values, and name what can't be reached behind them."""
        net = stage.student.module
        found: dict[str, None] = {}
        for path, module in net.named_modules():
            if stage.classes.row(module, Attention) is None:
                continue
            stage.left_out[f"{path}:probabilities"] = "stay float: they are inside a function that no module calls"
            try:
                view = view_of(net, path, stage.classes)
            except UsageError as error:
                stage.left_out[f"{path}:output"] = f"its queries, keys and values stay float: {error}"
                continue
            found |= dict.fromkeys(part.module for part in (*view.q, *view.k, *view.v))
        return list(found)

    def _made(self, weight: Weight, axis: int | None) -> Transform:
        """Return a quantizer for a weight, with a scale for each index of a dimension or for the whole."""
        if self.weights == "8-bit":
            return DynamicRange(8, symmetric=True, by_row=axis is not None)
        if self.weights == "lat":
            return LossAwareTernary(list(weight.latent.shape), axis)
        return BoundedTernary(axis)

    def weight_quantizer(self, weight: Weight, bits: int) -> Transform:
        """Return a quantizer with one scale for the layer."""
        return self._made(weight, None)

    def input_quantizer(self, seen: Seen, bits: int) -> DynamicRange:
        """Return a quantizer that finds the range of an activation by itself, at each call."""
        return DynamicRange(bits, symmetric=self.activations == "symmetric")

    @hookimpl
    def loss_terms(self, stage: Stage, outputs: Mapping[str, Outputs], player: Player) -> dict[str, Tensor]:
        """Return the three distances, those whose factor isn't 0."""
        mine, theirs = outputs[player.name], outputs[stage.teachers[0].name]
        terms = {}
        if self.hidden:
            pairs = [(mine.taps[one], theirs.taps[other]) for one, other in self.pairs_]
            terms["hidden"] = self.hidden * distance(pairs)
        if self.attention:
            scores = zip(mine.taps["scores"], theirs.taps["scores"], strict=True)
            terms["attention"] = self.attention * distance([(unmasked(one), unmasked(other)) for one, other in scores])
        if self.logits:
            terms["logits"] = self.logits * divergence(mine, softened(theirs.rows, 1.0), 1.0)
        return terms

    @hookimpl
    def task_weight(self) -> float:
        """Leave the labels out."""
        return 0.0

    @hookimpl
    def after_step(self, stage: Stage, player: Player) -> None:
        """Let curvatures follow Adam's second moment.

        :raises NotApplicable: for an optimizer that has none.
        """
        if self.weights != "lat":
            return
        assert player.optimizer is not None
        for weight in self.held(stage):
            assert weight.stack is not None
            own = weight.stack.transforms[self.key]
            assert isinstance(own, LossAwareTernary)
            own.follow(_second_moment(self.key, player.optimizer, weight))

    @hookimpl
    def report(self, stage: Stage) -> dict[str, float]:
        """Return the share of the net's parameters that are quantized, and what speaks against the teacher."""
        return {**super().report(stage), **warnings_of(stage)}


def _second_moment(key: str, optimizer: torch.optim.Optimizer, weight: Weight) -> Tensor:
    """Return Adam's second moment of a weight, of its shape.

    :raises NotApplicable: for an optimizer that has none.
    """
    state = optimizer.state[weight.latent]
    if "exp_avg_sq" not in state:
        raise NotApplicable(key, "weights: lat needs Adam's second moment; say optimizer: {name: adamw}")
    moment: Tensor = state["exp_avg_sq"]
    return moment


def distance(pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Return the sum of the mean squared distances of pairs of tensors, each of one shape: shape ``()``."""
    return torch.stack([torch.nn.functional.mse_loss(one, other) for one, other in pairs]).sum()


def unmasked(scores: Tensor) -> Tensor:
    """Return attention scores of any shape, those of masked tokens as 0, so that they have no part in a distance."""
    return torch.where(scores <= MASKED, 0.0, scores)
