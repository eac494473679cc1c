from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from condensery import Weight, straight_through
from condensery.nets import Coding
from condensery_plugins.codecs.binary_basis import BinaryBasis
from condensery_plugins.quantization.calibration import Seen, flat
from condensery_plugins.quantization.gradients import passing
from condensery_plugins.quantization.quantizer import BitQuantizer
from condensery_plugins.quantization.signs import Groups, SumOfSigns

MEDIAN = 0.6745
"""Of the size of a standard normal number: the unit of the authors' starting basis."""
KEPT, RIDGE, ROUNDS = 0.9, 1e-4, 20
"""Share of the old basis that one step leaves; what is added to the normal equations; rounds of a fitted start."""


class LearnedBasis(SumOfSigns):
    """Holds values at the nearest of the 2^bits sums of a basis with binary factors; the basis follows the values.

    The basis is no trained parameter: one round of alternating least squares is made with the codes of each step, and
    a tenth of the way to its solution is gone. Levels are sorted anew each time, as they may change places.

    :param bits: numbers in a basis.
    :param shape: of one number for each group, broadcasting against the tensor.
    :param axis: one basis for each index of this dimension; ``None``: one for the tensor.
    :param signed: factors are -1 and 1, otherwise 0 and 1.
    :param activation: the basis moves in each forward pass in training and not after an optimizer's step, and the
        gradient stops above the largest level; with signs below the smallest too.
    """

    key = "learned-basis"
    basis: Tensor

    def __init__(
        self, bits: int, shape: list[int], axis: int | None = None, signed: bool = True, activation: bool = False
    ) -> None:
        super().__init__()
        self.bits, self.groups, self.signed, self.activation = bits, Groups(axis), signed, activation
        self.register_buffer("basis", torch.zeros(bits, *shape))

    def _factors(self) -> Tensor:
        """Return the factors of each level, float32 ``(levels, bits)``; bit k of a level's number is that of k."""
        numbers = torch.arange(2**self.bits, device=self.basis.device)[:, None]
        ones = (numbers >> torch.arange(self.bits, device=self.basis.device) & 1).float()
        return 2 * ones - 1 if self.signed else ones

    def numbers(self, value: Tensor) -> Tensor:
        """Return the basis."""
        return self.basis

    def levels(self) -> Tensor:
        """Return the levels of each group, ``(groups, levels)``; summed in order, as a codec does."""
        numbers = self.basis.reshape(self.bits, -1)[:, :, None]
        total = torch.zeros_like(numbers[0])
        for number, factors in zip(numbers, self._factors().T, strict=True):
            total = total + number * factors
        return total

    def nearest(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the levels, and for each value the place of the nearest; one half way between two is the upper one's.

        :param rows: ``(groups, values)``.
        """
        levels = self.levels()
        ascending, order = levels.sort(1)
        between = (ascending[:, 1:] + ascending[:, :-1]) / 2
        places = torch.searchsorted(between.contiguous(), rows.to(levels.dtype).contiguous(), right=True)
        return levels, order.gather(1, places)

    def fitted(self, rows: Tensor, codes: Tensor) -> Tensor:
        """Return the basis that is best for some values with these levels, by least squares; of the basis' shape.

        A little of a ridge towards the old basis is added, as otherwise levels that do not occur leave it open.

        :param rows: ``(groups, values)``; ``codes`` likewise, the places of their levels.
        """
        zeros = rows.new_zeros(len(rows), 2**self.bits, dtype=torch.float64)
        values = rows.double()
        counts = zeros.scatter_add(1, codes, torch.ones_like(values))
        sums = zeros.scatter_add(1, codes, values)

        factors, old = self._factors().double(), self.basis.reshape(self.bits, -1).T.double()
        ridge = RIDGE * torch.eye(self.bits, dtype=torch.float64, device=rows.device)
        gram = torch.einsum("gl,la,lb->gab", counts, factors, factors) + ridge
        found: Tensor = torch.linalg.solve(gram, sums @ factors + RIDGE * old)
        return found.T.reshape(self.basis.shape).to(self.basis.dtype)

    def start(self, unit: Tensor | float, values: Tensor | None = None) -> LearnedBasis:
        """Start from a unit times 1, 2, 4 ..., which makes levels that are evenly spaced, and return self.

        :param unit: the smallest number, one for all groups or ``(groups,)``.
        :param values: what the basis is fitted to from there, such as the weight itself.
        """
        shape = self.basis.shape[1:]
        with torch.no_grad():
            units = torch.as_tensor(unit).expand(shape.numel()).reshape(shape)
            self.basis = torch.stack([units * 2**place for place in range(self.bits)])
            if values is not None:
                rows = self.groups.split(values)
                for _ in range(ROUNDS):
                    self.basis = self.fitted(rows, self.nearest(rows)[1])
        return self

    def forward(self, value: Tensor) -> Tensor:
        """Return the nearest levels, of the tensor's shape, by the basis as it was before this step."""
        with torch.no_grad():
            rows = self.groups.split(value)
            levels, codes = self.nearest(rows)
            out = self.groups.join(levels.gather(1, codes), value)
            out = torch.where(value.isnan(), value, out)  # what is not a number stays so, and is seen
            top = levels.max()
        if not self.activation:
            return straight_through(out, value)

        if self.training and torch.is_grad_enabled():
            self._move(rows.detach(), codes)
        return passing(out, value, (value.abs() if self.signed else value).detach() <= top)

    def settle(self, latent: Tensor | None) -> None:
        """Let the basis of a weight follow it."""
        if latent is not None:
            rows = self.groups.split(latent)
            self._move(rows, self.nearest(rows)[1])

    def _move(self, rows: Tensor, codes: Tensor) -> None:
        """Go a part of the way to the best basis; nowhere from values that aren't finite."""
        best = self.fitted(rows, codes)
        self.basis.lerp_(torch.where(best.isfinite(), best, self.basis), 1 - KEPT)

    def resize(self, take: Callable[[Tensor], Tensor]) -> None:
        """Slice each number of the basis after a cut."""
        self.basis = torch.stack([take(number) for number in self.basis])

    def holds(self, final: Tensor) -> str | None:
        """Check that all values are levels, or zero under a mask."""
        rows = self.groups.split(final)
        levels, codes = self.nearest(rows)
        off = int(((levels.gather(1, codes) != rows) & (rows != 0)).sum())
        return f"{off} values are no levels" if off else None

    def config(self) -> dict[str, Any]:
        """Return width, shape and kind."""
        return {
            "bits": self.bits,
            "shape": list(self.basis.shape[1:]),
            "axis": self.groups.axis,
            "signed": self.signed,
            "activation": self.activation,
        }

    def code(self, coding: Coding, final: Tensor) -> Coding:
        """Return a bit for each number of the basis, and the basis."""
        return Coding(BinaryBasis(self.basis, zeros=not bool(final.all()))) if self.signed else coding


@dataclass(eq=False, kw_only=True)
class LQNets(BitQuantizer):
    """Train a net with weights and activations at levels that are sums of a few learned numbers, each plus or minus.

    Zhang, Yang, Ye, Hua: "LQ-Nets: Learned Quantization for Highly Accurate and Compact Deep Neural Networks", ECCV
    2018 [34]. Products can still be counted by bits. Weights have a basis for each output channel, inputs one for each
    layer, with factors 0 and 1 where they are never negative on sampled data. First and last layer stay float.

    When: a basis takes one round of alternating least squares (QEM) in each step, and moves a tenth of the way there.
    ``start: fitted`` begins with the best one for the trained weights and sampled inputs, ``paper`` with the authors'
    formula, for nets that train from scratch.

    End: an artifact holds the factors of the weights, a bit for each number of the basis, and the bases.

    Raises NotApplicable where a layer is quantized already, or the net has no layer between the first and the last.
    """

    key = "lq-nets"

    weight_bits: int = 2
    activation_bits: int | None = 2
    start: Literal["fitted", "paper"] = "fitted"

    def weight_quantizer(self, weight: Weight, bits: int) -> LearnedBasis:
        """Return a weight's quantizer: levels evenly spaced over as many times the deviation, or fitted from there."""
        latent, (axis, inputs) = weight.latent.detach(), weight.axes
        shape = [size if dim == axis else 1 for dim, size in enumerate(latent.shape)]
        made = LearnedBasis(bits, shape, axis)
        if self.start == "paper":
            return made.start(MEDIAN * (2 * latent.shape[inputs] / latent.numel()) ** 0.5 / 2 ** (bits - 1))
        sizes = latent.movedim(axis, 0).flatten(1).square().mean(1).sqrt()
        return made.start(MEDIAN * sizes / 2 ** (bits - 1), latent)

    def input_quantizer(self, seen: Seen, bits: int) -> LearnedBasis:
        """Return an input's quantizer; half of what is normally distributed has passed a ReLU."""
        values = flat(seen)
        signed = bool((values < 0).any())
        made = LearnedBasis(bits, [], signed=signed, activation=True)
        unit = MEDIAN / 2 ** (bits - 1) if signed else 2 * MEDIAN / (2**bits - 1)
        if self.start == "paper":
            return made.start(unit)
        return made.start(unit * (values.square().mean() * (1 if signed else 2)).sqrt(), values)
