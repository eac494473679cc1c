from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from condensery import Method, NotApplicable, Stage, UsageError, Weight, hookimpl
from condensery.nets import CONVS
from condensery.surgery import is_writer
from condensery_plugins.pruning.filters import is_free, kept, need_filters

Conv = nn.Conv1d | nn.Conv2d | nn.Conv3d


@dataclass(eq=False, kw_only=True)
class ThiNet(Method):
    """Cut the channels without which the next convolution's output changes least, and rescale those that stay.

    Luo, Wu, Lin: "ThiNet: A Filter Level Pruning Method for Deep Neural Network Compression", ICCV 2017 [17]. The next
    convolution's output at a sampled place, without its bias, is a sum of one number for each channel. The channels T
    that go are chosen greedily so that the sum over samples of (sum over T)^2 stays smallest (eq. 6); those that stay
    are rescaled by least squares (eq. 7), in the next convolution's weights. A layer of C channels keeps
    floor(C * keep), at least one.

    What can be cut is a convolution whose channels no shortcut couples with others and that only one other convolution
    reads: in a residual block, all but the last. Of those ``layers`` names the ones to cut.

    When: as the stage starts; then it trains the net. In a round over layers each pass cuts its own layer; one that
    can't be cut is left alone: that pass trains nothing and reports 0 layers. Elsewhere all layers are cut in turn,
    each as the ones before it left the net.

    Raises NotApplicable on a net without a layer that can be cut.
    """

    key = "thinet"

    needs = frozenset({"float-weights"})
    removes = frozenset({"dense-shape"})

    keep: float = 0.5
    images: int = 1000
    positions: int = 10
    rescale: bool = True
    criterion: Literal["greedy", "norms", "random"] = "greedy"
    layers: list[str] = dataclasses.field(default_factory=lambda: ["*"])

    @hookimpl
    def prepare(self, stage: Stage) -> None:
        """Choose, rescale and cut before the optimizer exists."""
        readers = self._readers(stage)
        if stage.layer is not None:
            readers = {path: reader for path, reader in readers.items() if path == stage.layer}
            # The paper trains after each layer that was cut; where nothing was, there is nothing to mend.
            if not readers:
                stage.epochs = 0

        self.cut_ = self.channels_ = self.gone_ = 0
        self.errors_: list[tuple[float, float]] = []
        weights = stage.weights(kinds=CONVS).by_path
        stage.surgeon.remove_channels({path: self._thin(stage, weights[reader]) for path, reader in readers.items()})

    def _readers(self, stage: Stage) -> dict[str, str]:
        """Return the convolution that reads each chosen layer, by the layer's path, in the order of the forward pass.

        :raises NotApplicable: if no layer can be cut.
        """
        order = stage.order(kinds=CONVS)
        need_filters(stage, self.key, order)
        found = {path: reader for path in order if (reader := _reader(stage, path)) is not None}
        if not found:
            raise NotApplicable(
                self.key, "no convolution has channels of its own that only one other convolution reads"
            )

        chosen = stage.layers(self.layers, f"{self.key}.layers", among=found)
        if not chosen:
            raise UsageError(f"{self.key}.layers: none of the layers that can be cut is {', '.join(self.layers)}")
        return {path: found[path] for path in chosen}

    def _thin(self, stage: Stage, reader: Weight) -> list[int]:
        """Choose channels, fold the rescaling into the convolution that reads them; return the ones that go."""
        generator = torch.Generator().manual_seed(stage.seed)
        gram = self._gram(stage, reader, generator)
        channels = len(gram)
        goes = channels - kept(channels, self.keep)

        if self.criterion == "greedy":
            gone = greedy(gram, goes)
        else:
            norms = self.criterion == "norms"
            scores = gram.diagonal() if norms else torch.rand(channels, generator=generator)
            gone = scores.argsort(stable=True)[:goes].tolist()

        # What goes is zeroed, so that the layers that follow are measured on the net as the cut will leave it.
        factors = rescaling(gram, gone) if self.rescale else torch.ones(channels, dtype=gram.dtype)
        factors[gone] = 0.0
        self.errors_.append((_error(gram, _without(channels, gone)), _error(gram, factors)))
        shape = [1, channels] + [1] * (reader.latent.dim() - 2)
        reader.latent.data.mul_(factors.view(shape).to(reader.latent))

        self.cut_ += 1
        self.channels_ += channels
        self.gone_ += goes
        return gone

    def _gram(self, stage: Stage, reader: Weight, generator: torch.Generator) -> Tensor:
        """Return how the channels' parts of the output go together, ``(channels, channels)``.

        Entry (i, j) is the sum over samples of what channel i adds there times what channel j adds.
        """
        assert isinstance(reader.module, Conv)
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
    if not is_free(stage, path):
        return None

    surgeon = stage.surgeon
    channels = surgeon.graph.group(path).channels
    reading = surgeon.inputs_gone({path: range(channels)})
    found = [p for p in reading if p != path and is_writer(surgeon.net.get_submodule(p))]
    if len(found) != 1:
        return None

    module = surgeon.net.get_submodule(found[0])
    plain = isinstance(module, Conv) and module.groups == 1 and module.in_channels == channels
    return found[0] if plain else None


def contributions(conv: Conv, weight: Tensor, seen: Tensor, positions: int, generator: torch.Generator) -> Tensor:
    """Return what each input channel adds to a convolution's output at random places, ``(samples, channels)``.

    A place is an output channel and a position, drawn anew for each sample. Without the bias, a row's sum is the output
    there.

    :param weight: ``(outputs, channels, *kernel)``.
    :param seen: its input, ``(images, channels, *size)``.
    :param positions: places for each image.
    """
    mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
    padded = nn.functional.pad(seen, conv._reversed_padding_repeated_twice, mode=mode)
    samples = len(seen) * positions

    def draw(top: int) -> Tensor:
        return torch.randint(top, (samples,), generator=generator).to(seen.device)

    # Of each sample: its image, its output channel, and the first pixel that the kernel covers there.
    image = torch.arange(len(seen), device=seen.device).repeat_interleave(positions)
    output = draw(len(weight))
    corners = []
    for size, kernel, stride, dilation in zip(
        padded.shape[2:], conv.kernel_size, conv.stride, conv.dilation, strict=True
    ):
        corners.append(stride * draw((size - dilation * (kernel - 1) - 1) // stride + 1))

    # Then one position of the kernel after the other, for all samples and channels at once.
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
    :param count: how many go.
    """
    gone: list[int] = []
    own = gram.diagonal().clone()
    with_gone = torch.zeros_like(own)
    for _ in range(count):
        # A channel that joins T adds its own entry, and twice its entries with those that are in T already.
        chosen = int((own + 2 * with_gone).argmin())
        gone.append(chosen)
        own[chosen] = torch.inf
        with_gone += gram[chosen]
    return gone


def rescaling(gram: Tensor, gone: Sequence[int]) -> Tensor:
    """Return a factor for each channel that stays, by least squares, and 1 for those that go: ``(channels,)``.

    Of several equally good answers, the nearest to 1: a channel that was never seen to do anything stays as it is.

    :param gram: ``(channels, channels)``.
    :param gone: channels that go.
    """
    stays = _without(len(gram), gone).bool()
    factors = torch.ones(len(gram), dtype=gram.dtype)
    missing = gram[stays][:, ~stays].sum(1)
    factors[stays] += torch.linalg.pinv(gram[stays][:, stays], hermitian=True) @ missing
    return factors


def _without(channels: int, gone: Sequence[int]) -> Tensor:
    """Return 1 for each channel that stays and 0 for those that go, ``(channels,)``."""
    ones = torch.ones(channels, dtype=torch.float64)
    ones[list(gone)] = 0.0
    return ones


def _error(gram: Tensor, factors: Tensor) -> float:
    """Return the squared error of the output with these factors, over the output squared.

    :param gram: ``(channels, channels)``.
    :param factors: ``(channels,)``.
    """
    off, ones = factors - 1, torch.ones_like(factors)
    return float(off @ gram @ off / (ones @ gram @ ones).clamp_min(1e-30))
