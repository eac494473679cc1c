from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from condensery import Method, NotApplicable, Stage, Transform, hookimpl, straight_through
from condensery.contract import Words
from condensery.nets import QUANTIZE, Coding
from condensery.run import Outputs, Player
from condensery_plugins.codecs.affine import Affine
from condensery_plugins.distillation.softened import divergence, softened
from condensery_plugins.quantization.calibration import Plan, Seen, flat, levels_beyond, quantize_layers

ALIKE = 1e-6
"""Sizes that differ by less, as a share of the largest, are one size but for rounding."""


class IntervalQuantizer(Transform):
    """A uniform quantizer of sizes between ``c - d`` and ``c + d``, both learned; smaller ones become 0.

    It takes a weight or an activation of any shape. In the code ``c`` is the center and ``d`` the reach.

    :param bits: width; signed: 2^(b-1) - 1 sizes and a sign, otherwise 2^b - 1 sizes.
    :param signed: weights, and inputs that can be negative.
    """

    key = "interval-quantizer"
    rank = QUANTIZE
    bits: int
    settings = {"weight_decay": 0.0}

    def __init__(self, bits: int, signed: bool = True) -> None:
        super().__init__()
        self.bits, self.signed = bits, signed
        self.sizes = 2 ** (bits - 1) - 1 if signed else 2**bits - 1
        self.center = nn.Parameter(torch.tensor(0.5))
        self.reach = nn.Parameter(torch.tensor(0.5))

    def start(self, value: Tensor) -> IntervalQuantizer:
        """Let the interval reach from the smallest to the largest size, and return self.

        Sizes that are all alike leave no interval: it starts at 0 then, so that they are its upper end.
        """
        sizes = value.abs() if self.signed else value.clamp_min(0)
        low, high = float(sizes.min()), float(sizes.max())
        low = 0.0 if high - low <= ALIKE * high else low
        with torch.no_grad():
            self.center.fill_((high + low) / 2)
            self.reach.fill_(max((high - low) / 2, 1e-6))
        return self

    def forward(self, value: Tensor) -> Tensor:
        """Return sign(v) round(t n) / n times the largest size, with t = clip((|v| - c + d) / 2d, 0, 1)."""
        size = value.abs() if self.signed else value
        share = ((size - self.center + self.reach) / (2 * self.reach)).clamp(0, 1)
        level = straight_through((share * self.sizes).round(), share * self.sizes) / self.sizes

        level = level * (self.center + self.reach)
        return torch.mul(level, value.detach().sign()) if self.signed else level

    def settle(self, latent: Tensor | None) -> None:
        """Keep the interval's half width positive and its upper end above zero."""
        self.reach.clamp_min_(1e-6)
        self.center.copy_(torch.maximum(self.center, 1e-6 - self.reach))

    def holds(self, final: Tensor) -> str | None:
        """Check the number of levels."""
        return levels_beyond(final, 2**self.bits)

    def config(self) -> dict[str, Any]:
        """Return bits and kind of levels."""
        return {"bits": self.bits, "signed": self.signed}

    def code(self, coding: Coding, final: Tensor) -> Coding:
        """Return sizes with their signs, packed, and the step between sizes."""
        scale = (self.center + self.reach) / self.sizes
        return Coding(Affine(self.bits, scale, zero=self.sizes if self.signed else 0))


def _for_input(seen: Seen, bits: int) -> IntervalQuantizer:
    """Return a quantizer for what reached a layer."""
    values = flat(seen)
    return IntervalQuantizer(bits, signed=bool((values < 0).any())).start(values)


@dataclass(eq=False, kw_only=True)
class QKD(Method):
    """Quantize, then study with the teacher, then be tutored by it: one phase a stage.

    Kim, Bhalgat, Lee, Patel, Kwak: "QKD: Quantization-aware Knowledge Distillation", 2019 [75].
    ``self-study``: the quantizers are attached and trained with the labels alone. ``co-study``: student and teacher
    train together; give the teacher a small rate, ``players: {teacher: {train: true, optimizer: {lr: ...}}}``, or it
    has the student's. ``tutor``: the teacher that co-studied (``stage:<name>.teacher``) is frozen and the student goes
    on.

    Loss: task, and but for ``self-study`` T^2 KL(partner^T || own^T), for the student and for a teacher that trains.

    When: quantizers are attached as ``self-study`` starts, and train in all three phases.

    End: they stay; an artifact holds the numbers of the levels and the steps.

    Raises NotApplicable where a layer is quantized already, and on a teacher that trains where it should be frozen or
    the other way round.
    """

    key = "qkd"

    acts_on = ("student", "teacher")

    phase: Literal["self-study", "co-study", "tutor"] = "self-study"
    T: float = 2.0
    weight_bits: int = 4
    activation_bits: int = 4
    edge_bits: int = 8

    def words(self) -> Words:
        """Return what the phase needs and leaves."""
        if self.phase == "self-study":
            left = frozenset({"quantized-weights", "quantized-activations"})
            return Words(frozenset({"float-weights"}), left, frozenset({"float-weights"}))
        needs = frozenset({"teacher", "classifier-logits", "quantized-weights"})
        return Words(needs, frozenset(), frozenset())

    @hookimpl
    def players(self, stage: Stage) -> list[Player]:
        """Let the teacher train in co-study, where the recipe says nothing of it."""
        teacher = stage.players.get("teacher")
        if self.phase == "co-study" and teacher is not None and "teacher" not in stage.spec.players:
            teacher.trains = True
        return []

    @hookimpl
    def prepare(self, stage: Stage) -> None:
        """Attach the quantizers, or check that the teacher does what the phase asks."""
        if self.phase == "self-study":
            quantize_layers(
                stage,
                self.key,
                Plan(self.weight_bits, self.activation_bits, self.edge_bits),
                lambda weight, bits: IntervalQuantizer(bits).start(weight.latent.detach()),
                _for_input,
            )
            return

        trains = stage.players["teacher"].trains
        if self.phase == "co-study" and not trains:
            raise NotApplicable(
                self.key, "in co-study the teacher trains too: add players={teacher={train=true}} to the stage's braces"
            )
        if self.phase == "tutor" and trains:
            raise NotApplicable(self.key, "in tutor the teacher is frozen: take train=true out of players.teacher")

    @hookimpl
    def loss_terms(self, outputs: Mapping[str, Outputs], player: Player) -> dict[str, Tensor] | None:
        """Return T^2 KL(partner || player) for the student, and for a teacher that trains."""
        if self.phase == "self-study":
            return None
        partner = "teacher" if player.name == "student" else "student"
        target = softened(outputs[partner].rows, self.T)
        return {"kd": self.T**2 * divergence(outputs[player.name], target, self.T)}
