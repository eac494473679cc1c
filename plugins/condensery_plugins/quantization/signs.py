"""Weights that are a sign times a scale, zero with some: which entries share a scale, and how they are stored."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from condensery import Transform, straight_through
from condensery.nets import QUANTIZE, Coding
from condensery_plugins.codecs.affine import Affine
from condensery_plugins.codecs.palette import Palette
from condensery_plugins.codecs.signs import Signs
from condensery_plugins.codecs.ternary import Ternary
from condensery_plugins.quantization.gradients import Estimator, clipped, estimated

Through = Estimator | Literal["paper", "exact"]


def sign(x: Tensor) -> Tensor:
    """Return -1 or 1 for each entry, of its shape; zero is 1, where ``torch.sign`` would make a third level.

    What is not a number stays so: a net that has diverged must not look as if it hadn't.
    """
    signs = torch.where(x >= 0, 1.0, -1.0).to(x.dtype)
    return torch.where(x.isnan(), x.detach(), signs)


class Groups(NamedTuple):
    """Which entries of a weight share a scale.

    :param axis: one scale for each index of this dimension, that of the layer's outputs; ``None``: one for the tensor.
    :param size: one scale for as many neighbours in a row, which one index of dimension 0 selects; the last run of a
        row may be shorter.
    """

    axis: int | None = None
    size: int | None = None

    def split(self, value: Tensor) -> Tensor:
        """Return one row for each scale, ``(scales, entries)``; a run that is short is filled with zeros."""
        if self.size is not None:
            rows = value.reshape(value.shape[0], -1)
            return torch.nn.functional.pad(rows, (0, -rows.shape[1] % self.size)).reshape(-1, self.size)
        return value.reshape(1, -1) if self.axis is None else value.movedim(self.axis, 0).flatten(1)

    def join(self, rows: Tensor, like: Tensor) -> Tensor:
        """Undo :meth:`split`: return the rows in another tensor's shape."""
        if self.size is not None:
            entries = like[0].numel()
            return rows.reshape(len(like), -1)[:, :entries].reshape(like.shape)
        if self.axis is None:
            return rows.reshape(like.shape)
        return rows.reshape(like.movedim(self.axis, 0).shape).movedim(0, self.axis)

    def counts(self, rows: Tensor, like: Tensor) -> Tensor:
        """Return the number of entries of each row that are the tensor's, ``(scales, 1)``."""
        if self.size is None:
            return rows.new_full((len(rows), 1), rows.shape[1])
        return self.split(torch.ones_like(like)).sum(1, keepdim=True)

    def shaped(self, scales: Tensor, like: Tensor) -> Tensor:
        """Return one number for each row so that it broadcasts against a tensor; for runs, ``(rows, runs)``."""
        if self.size is not None:
            return scales.reshape(len(like), -1)
        shape = [1] * like.dim() if self.axis is not None else []
        if self.axis is not None:
            shape[self.axis] = -1
        return scales.reshape(shape)


class Signed(Transform):
    """What holds values at one positive and one negative number in each group, or at zero; the base of all such.

    :param axis: see :class:`Groups`.
    :param size: see :class:`Groups`.
    """

    rank = QUANTIZE
    bits: int | None

    def __init__(self, axis: int | None = None, size: int | None = None) -> None:
        super().__init__()
        self.groups = Groups(axis, size)

    def config(self) -> dict[str, Any]:
        """Return which entries share a scale."""
        return self.groups._asdict()

    def holds(self, final: Tensor) -> str | None:
        """Check that a group has one positive and one negative value at most."""
        for rows in (self.groups.split(final), -self.groups.split(final)):
            least = rows.masked_fill(rows <= 0, torch.inf).amin(1)
            wrong = int(((least < torch.inf) & (rows.amax(1) != least)).sum())
            if wrong:
                return f"{wrong} groups of weights have two values of one sign"
        return None

    def code(self, coding: Coding, final: Tensor) -> Coding:
        """Return signs in one bit, or in 1.6 where there are zeros, and the scales."""
        rows = self.groups.split(final.detach().float().cpu())
        above, below = rows.amax(1).clamp_min(0), (-rows).amax(1).clamp_min(0)
        zeros = not bool(final.all())

        # Signs of unlike sizes are numbered: zero, the negative one, the positive one.
        if not bool(((above == below) | (above == 0) | (below == 0)).all()):
            return Coding(Palette(final), {"codes": Coding(Ternary(0))} if zeros else {})
        scales = self.groups.shaped(torch.maximum(above, below), final)
        return Coding(Affine(2, scales, group=self.groups.size), {"codes": Coding(Ternary() if zeros else Signs())})


class SumOfSigns(Transform):
    """What holds values at sums of a few numbers; with ``signed`` each has a plus or a minus, otherwise 1 or 0.

    :param bits: how many numbers.
    """

    rank = QUANTIZE
    bits: int
    signed = True

    def numbers(self, value: Tensor) -> Tensor:
        """Return the numbers with which it holds a value, ``(bits, ...)``, each broadcasting against the value."""
        raise NotImplementedError


class ScaledSign(Signed):
    """The sign of a weight or of an activation, zero being positive, with the scale 1 or the mean size of its group.

    A group that is all zero has the scale zero, and so are its values.

    :param scaled: by the mean absolute value of the group.
    :param axis: see :class:`Groups`; for the scales.
    :param size: see :class:`Groups`.
    :param gradient: what becomes of the gradient g of the value. ``identity``: g. ``clip``: g where the latent is
        within -1 and 1, otherwise 0. With a scale a of n entries also ``paper``: g (1/n + a 1(|w| <= 1)), and
        ``exact``: the chain rule through the mean, sign(w) / n times the sum of g sign(w), + a g 1(|w| <= 1).
    :param limited: the latent is kept within -1 and 1.
    :param centred: after each step the latent's mean over the inputs is taken away, over dimension 1, or 0 where
        ``axis`` is 1; where there is one input alone, as in a depthwise convolution, nothing would be left: it stays.
    :param stochastic: in training the sign is drawn, 1 with probability clip((w + 1) / 2, 0, 1).
    :param real: out of training the latent itself is used, so that nothing is quantized in the end.
    """

    key = "scaled-sign"

    def __init__(
        self,
        scaled: bool = False,
        axis: int | None = None,
        size: int | None = None,
        gradient: Through = "identity",
        limited: bool = False,
        centred: bool = False,
        stochastic: bool = False,
        real: bool = False,
    ) -> None:
        super().__init__(axis, size)
        if gradient in ("paper", "exact") and not scaled:
            raise ValueError(f"{self.key}: gradient {gradient!r} is one through a scale, and there is none")
        self.scaled, self.gradient, self.limited, self.centred = scaled, gradient, limited, centred
        self.stochastic, self.real = stochastic, real
        self.bits = None if real else 1

    def forward(self, value: Tensor) -> Tensor:
        """Return signs, or signs times scales, of the tensor's shape."""
        if self.real and not self.training:
            return value
        if not self.scaled:
            return self._estimated(self._signs(value), value)

        rows = self.groups.split(value)
        counts = self.groups.counts(rows, value)
        signs, scale = self._signs(rows), rows.abs().sum(1, keepdim=True) / counts
        if self.gradient == "exact":
            out = clipped(signs, rows) * scale
        elif self.gradient == "paper":
            held = scale.detach()
            out = straight_through(signs * held, clipped(signs, rows) * held + rows / counts)
        else:
            out = self._estimated(signs * scale.detach(), rows)
        return self.groups.join(out, value)

    def _estimated(self, value: Tensor, latent: Tensor) -> Tensor:
        """Return a value with the gradient of an estimator."""
        assert self.gradient in ("clip", "identity")
        return estimated(value, latent, self.gradient)

    def _signs(self, value: Tensor) -> Tensor:
        """Return the signs, drawn where they are to be."""
        if self.stochastic and self.training:
            return sign((value + 1) / 2 - torch.rand_like(value))
        return sign(value)

    def start(self, latent: Tensor) -> ScaledSign:
        """Bring the latent weight to where it is kept, and return self."""
        with torch.no_grad():
            self.settle(latent)
        return self

    def settle(self, latent: Tensor | None) -> None:
        """Centre the latent weight and keep it within -1 and 1, where that is asked for."""
        inputs = 0 if self.groups.axis == 1 else 1
        if latent is not None and self.centred and latent.shape[inputs] > 1:
            latent.sub_(latent.mean(inputs, keepdim=True))
        if latent is not None and self.limited:
            latent.clamp_(-1, 1)

    def holds(self, final: Tensor) -> str | None:
        """Check the values, unless they are real ones."""
        return None if self.real else super().holds(final)

    def code(self, coding: Coding, final: Tensor) -> Coding:
        """Return signs and scales, unless the values are real ones."""
        return coding if self.real else super().code(coding, final)

    def config(self) -> dict[str, Any]:
        """Return all settings."""
        names = ("scaled", "gradient", "limited", "centred", "stochastic", "real")
        return {**super().config(), **{name: getattr(self, name) for name in names}}


class ScaledTernary(Signed):
    """A scale times -1, 0 or 1: what is within a threshold is zero, and the scale is the mean size of the rest.

    Both are found anew from the latent weight in each pass, for each group by itself; the gradient goes to the latent
    weight unchanged. A group that is all zero stays so.

    :param axis: see :class:`Groups`.
    :param size: see :class:`Groups`.
    :param factor: the threshold is as many times the mean absolute value; 0 leaves signs, as nothing but zero is
        within; ``None``: the threshold that leaves the least squared error, which is searched among all.
    """

    key = "scaled-ternary"

    def __init__(self, axis: int | None = None, size: int | None = None, factor: float | None = 0.7) -> None:
        super().__init__(axis, size)
        self.factor, self.bits = factor, 1 if factor == 0 else 2

    def forward(self, value: Tensor) -> Tensor:
        """Return the values, of the tensor's shape."""
        with torch.no_grad():
            rows = self.groups.split(value)
            sizes = rows.abs()
            if self.factor is None:
                kept = (sizes >= best_threshold(sizes)) & (sizes > 0)
            else:
                kept = sizes > self.factor * sizes.sum(1, keepdim=True) / self.groups.counts(rows, value)
            scale = (sizes * kept).sum(1, keepdim=True) / kept.sum(1, keepdim=True).clamp_min(1)
            out = self.groups.join(scale * rows.sign() * kept, value)
        return straight_through(out, value)

    def config(self) -> dict[str, Any]:
        """Return groups and factor."""
        return {**super().config(), "factor": self.factor}


def best_threshold(sizes: Tensor, importance: Tensor | None = None) -> Tensor:
    """Return the smallest entry that is kept by the best approximation of each row, ``(rows, 1)``.

    With the k largest kept and scaled by their mean, the squared error falls by (sum of the k)^2 / k; where entries
    count unequally, it is their weighted sum, and in place of k the sum of what they count.

    :param sizes: absolute values, ``(rows, entries)``.
    :param importance: how much each entry's error counts, above 0, of that shape; by default all alike.
    """
    largest, order = sizes.sort(1, descending=True)
    counts = torch.ones_like(largest) if importance is None else importance.gather(1, order)
    gain = (counts * largest).cumsum(1).square() / counts.cumsum(1)
    return largest.gather(1, gain.argmax(1, keepdim=True))
