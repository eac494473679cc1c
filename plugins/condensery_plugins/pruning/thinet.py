from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from condensery.contract import Method, hookimpl
from condensery.errors import NotApplicable, UsageError, nearest
from condensery.nets import CONVS, Weight
from condensery.run import Stage
from condensery.surgery import is_writer


@dataclass(eq=False, kw_only=True)
class ThiNet(Method):
    """Cut the channels without which the next convolution's output changes least, and rescale those that stay.

    Luo, Wu, Lin: "ThiNet: A Filter Level Pruning Method for Deep Neural Network Compression", ICCV 2017 [17]. The next
    convolution's output at a sampled place, without its bias, is a sum of one number for each channel. The channels T
    that go are chosen greedily so that the sum over samples of (sum over T)^2 stays smallest (eq. 6); those that stay
    are rescaled by least squares (eq. 7), in the next convolution's weights. Then the stage trains the net.

    In a round over layers each pass cuts its own layer; one that can't be cut is left alone: that pass trains nothing
    and reports 0 layers. Elsewhere all layers are cut in turn, each as the ones before it left the net. A layer of C
    channels keeps floor(C * keep), at least one. ``layers`` names the ones to cut; empty: all that can be. What can be
    cut is a convolution whose channels no shortcut couples with others and that only one other convolution reads: in a
    residual block, all but the last. Raises NotApplicable on a net without any.
    """

    key = "thinet"

    needs = frozenset({"float-weights"})
    removes = frozenset({"dense-shape"})

    keep: float = 0.5
    images: int = 1000
    positions: int = 10
    rescale: bool = True
    criterion: Literal["greedy", "norms", "random"] = "greedy"
    layers: list[str] = dataclasses.field(default_factory=list)

    @hookimpl
    def prepare(self, stage: Stage) -> None:
        """Choose, rescale and cut before the optimizer exists."""
        readers = self._readers(stage)
        self.cut_, self.channels_, self.gone_ = 0, 0, 0
        self.errors_: list[tuple[float, float]] = []
        if stage.layer is not None:
            readers = {p: r for p, r in readers.items() if p == stage.layer}
            if not readers:
                stage.epochs = 0  # the paper trains after each layer that was cut
        weights = {w.path: w for w in stage.weights(kinds=CONVS)}
        removed = {p: self._thin(stage, weights[r]) for p, r in readers.items()}
        stage.surgeon.remove_channels(removed)

    def _readers(self, stage: Stage) -> dict[str, str]:
        """Return the convolution that reads each layer that may be cut, in the order of the forward pass."""
        order = stage.order(kinds=CONVS)
        if not order:
            raise NotApplicable("thinet", "the net has no convolution")
        found = {p: r for p in order if (r := _reader(stage, p)) is not None}
        if not found:
            raise NotApplicable(
                "thinet", "no convolution has channels of its own that only one other convolution reads"
            )
        for path in self.layers:
            if path not in found:
                near = nearest(path, found)
                hint = f"; did you mean {near!r}?" if near else f"; there are {', '.join(list(found)[:8])}"
                raise UsageError(f"thinet.layers: {path!r} is no layer that can be cut{hint}")
        return {p: r for p, r in found.items() if p in self.layers} if self.layers else found

    def _thin(self, stage: Stage, reader: Weight) -> list[int]:
        """Choose channels, fold the rescaling into the convolution that reads them; return the ones that go.

        What goes is zeroed there, so that the layers that follow are measured on the net as the cut will leave it.
        """
        generator = torch.Generator().manual_seed(stage.seed)
        gram = self._gram(stage, reader, generator)
        channels = len(gram)
        count = channels - max(1, int(channels * Decimal(str(self.keep))))
        order = {"norms": gram.diagonal(), "random": torch.rand(channels, generator=generator)}.get(self.criterion)
        gone = greedy(gram, count) if order is None else order.argsort(stable=True)[:count].tolist()
        factors = rescaling(gram, gone) if self.rescale else torch.ones(channels, dtype=gram.dtype)
        factors[gone] = 0.0
        self.errors_.append((_error(gram, _without(channels, gone)), _error(gram, factors)))
        shape = [1, channels] + [1] * (reader.latent.dim() - 2)
        reader.latent.data.mul_(factors.view(shape).to(reader.latent))
        self.cut_ += 1
        self.channels_ += channels
        self.gone_ += count
        return gone

    def _gram(self, stage: Stage, reader: Weight, generator: torch.Generator) -> Tensor:
        """Return how the channels' parts of the output go together, ``(channels, channels)``."""
        assert isinstance(reader.module, _ConvNd)
        weight = reader.value
        total = torch.zeros(weight.shape[1], weight.shape[1], dtype=torch.float64)
        for seen in stage.record_inputs([reader.path], self.images)[reader.path]:
            parts = contributions(reader.module, weight, seen, self.positions, generator).cpu().double()
            total += parts.T @ parts
        return total

    @hookimpl
    def report(self, stage: Stage) -> dict[str, float]:
        """Return how much went, and the squared error of the next layers' outputs before and after the rescaling."""
        before, after = (sum(e[i] for e in self.errors_) / max(1, len(self.errors_)) for i in range(2))
        return {
            "layers_cut_count": self.cut_,
            "channels_removed_count": self.gone_,
            "channels_removed_percent": 100 * self.gone_ / max(1, self.channels_),
            "unscaled_error_percent": 100 * before,
            "error_percent": 100 * after,
        }


def _reader(stage: Stage, path: str) -> str | None:
    """Return the one convolution that reads a layer's channels, and no others; ``None`` if it isn't that simple."""
    surgeon = stage.surgeon
    group = surgeon.group(path)
    if group is None or group.reason is not None or group.layers != (path,) or group.blocks > 1:
        return None
    reading = surgeon.inputs_gone({path: range(group.channels)})
    found = {p: m for p in reading if p != path and is_writer(m := surgeon.net.get_submodule(p))}
    if len(found) != 1:
        return None
    reader, module = next(iter(found.items()))
    plain = isinstance(module, _ConvNd) and module.groups == 1 and not module.transposed
    return reader if plain and module.in_channels == group.channels else None


def contributions(conv: _ConvNd, weight: Tensor, seen: Tensor, positions: int, generator: torch.Generator) -> Tensor:
    """Return what each input channel adds to a convolution's output at random places, ``(samples, channels)``.

    A place is an output channel and a position, drawn anew for each; without the bias, a row's sum is the output there.

    :param weight: ``(outputs, channels, *kernel)``.
    :param seen: its input, ``(images, channels, *size)``.
    :param positions: places for each image.
    """
    mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
    padded = nn.functional.pad(seen, conv._reversed_padding_repeated_twice, mode=mode)
    samples = len(seen) * positions

    def draw(top: int) -> Tensor:
        return torch.randint(top, (samples,), generator=generator).to(seen.device)

    image = torch.arange(len(seen), device=seen.device).repeat_interleave(positions)
    output = draw(len(weight))
    corners = []
    for size, kernel, stride, dilation in zip(
        padded.shape[2:], conv.kernel_size, conv.stride, conv.dilation, strict=True
    ):
        corners.append(stride * draw((size - dilation * (kernel - 1) - 1) // stride + 1))
    inputs, filters = padded.movedim(1, -1), weight.movedim(1, -1)
    found = torch.zeros(samples, weight.shape[1], dtype=weight.dtype, device=seen.device)
    for offset in itertools.product(*(range(k) for k in conv.kernel_size)):
        pixel = [c + d * o for c, d, o in zip(corners, conv.dilation, offset, strict=True)]
        tap: tuple[Tensor | int, ...] = (output, *offset)
        found += inputs[(image, *pixel)] * filters[tap]
    return found


def greedy(gram: Tensor, count: int) -> list[int]:
    """Return the channels that go, in order: each time the one with which the sum of all that go stays smallest.

    The squared sum of a set T over all samples is the sum of the matrix's entries in T x T (Algorithm 1).

    :param gram: ``(channels, channels)``.
    """
    gone: list[int] = []
    own = gram.diagonal().clone()
    with_gone = torch.zeros_like(own)
    for _ in range(count):
        chosen = int((own + 2 * with_gone).argmin())
        gone.append(chosen)
        own[chosen] = torch.inf
        with_gone += gram[chosen]
    return gone


def rescaling(gram: Tensor, gone: Sequence[int]) -> Tensor:
    """Return a factor for each channel that stays, by least squares; 1 for those that go.

    Of several equally good answers, the nearest to 1: a channel that was never seen to do anything stays as it is.

    :param gram: ``(channels, channels)``.
    """
    stays = _without(len(gram), gone).bool()
    factors = torch.ones(len(gram), dtype=gram.dtype)
    missing = gram[stays][:, ~stays].sum(1)
    factors[stays] += torch.linalg.pinv(gram[stays][:, stays], hermitian=True) @ missing
    return factors


def _without(channels: int, gone: Sequence[int]) -> Tensor:
    ones = torch.ones(channels, dtype=torch.float64)
    ones[list(gone)] = 0.0
    return ones


def _error(gram: Tensor, factors: Tensor) -> float:
    """Return the squared error of the output with these factors, over the output squared."""
    off, ones = factors - 1, torch.ones_like(factors)
    return float(off @ gram @ off / (ones @ gram @ ones).clamp_min(1e-30))
