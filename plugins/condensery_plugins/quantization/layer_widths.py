"""Bit widths of layers: what they cost together, how they come within a budget, and what a layer is like.

Widths are a mapping from the settings of a quantizer by layer, such as ``layer_bits.conv1`` for its weights and
``layer_activation_bits.conv1`` for its input, to bits: what ``condensery search`` would set, and what the settings of
``ptq`` and ``lsq`` say.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from condensery import Stage
from condensery.measure import count_work
from condensery_plugins.quantization.packed_words import counted, packed, words

Cost = Literal["size", "bitops", "latency"]
Widths = Mapping[str, int]
WEIGHTS, INPUTS = "layer_bits.", "layer_activation_bits."
"""Begin the names of a layer's two widths."""
RUNS = 3
"""Times that a product is measured; the shortest counts."""


@dataclass(frozen=True)
class LayerFacts:
    """What is known of a layer before its widths are.

    :param area: numbers of one channel of its input, height times width.
    :param macs: multiply-accumulates for one example.
    """

    path: str
    channels: int
    outputs: int
    kernel: int
    stride: int
    area: int
    parameters: int
    depthwise: bool
    macs: int

    def row(self, index: int, *, is_weight: bool) -> list[float]:
        """Return the features of the step that decides on one of its widths."""
        sizes = (self.channels, self.outputs, self.kernel, self.stride, self.area, self.parameters)
        return [float(number) for number in (index, *sizes, self.depthwise, is_weight)]


def facts_of(stage: Stage, paths: Sequence[str], *, count: bool) -> list[LayerFacts]:
    """Return what is known of some layers of the student.

    :param count: count multiply-accumulates too.
    :raises UsageError: if they can't be counted.
    """
    weights: dict[str, list[Tensor]] = {}
    for weight in stage.weights():
        weights.setdefault(weight.path, []).append(weight.rows(weight.latent.detach()))
    seen = stage.record_inputs(paths, 1)
    work = count_work(stage.task, stage.student.module).layers if count else ()
    macs = {layer.path: layer.macs for layer in work}

    found = []
    for path in paths:
        module, rows = stage.student.module.get_submodule(path), weights[path]
        groups = int(getattr(module, "groups", 1))
        channels = rows[0].shape[1] * groups
        kernel, stride = (getattr(module, name, default) for name, default in (("kernel_size", 1), ("stride", 0)))
        found.append(
            LayerFacts(
                path=path,
                channels=channels,
                outputs=len(rows[0]),
                kernel=_first(kernel),
                stride=_first(stride),
                area=seen[path][0][0].numel() // channels if path in seen else 1,
                parameters=sum(part.numel() for part in rows),
                depthwise=groups == channels > 1,
                macs=macs.get(path, 0),
            )
        )
    return found


def _first(size: int | Sequence[int]) -> int:
    return size if isinstance(size, int) else int(size[0])


def features(rows: Sequence[Sequence[float]]) -> Tensor:
    """Return features from 0, the smallest among the rows, to 1, the largest; what all have in common is 0.

    :returns: ``(rows, features)``.
    """
    table = torch.tensor(rows, dtype=torch.float64)
    low, high = table.aminmax(dim=0)
    return ((table - low) / torch.where(high > low, high - low, 1)).float()


def layer_cost(cost: Cost, times: Mapping[str, Mapping[int, float]]) -> Callable[[LayerFacts, int, int], float]:
    """Return what tells a layer's cost from the bits of its weights and of its inputs.

    ``size`` is in bits, ``bitops`` in multiply-accumulates times the bits of both, ``latency`` in seconds.

    :param times: by layer and number of pairs of bit planes, see :func:`bit_serial_times`; for latency alone.
    """
    if cost == "size":
        return lambda layer, weight, _: float(layer.parameters * weight)
    if cost == "bitops":
        return lambda layer, weight, inputs: float(layer.macs * weight * inputs)
    return lambda layer, weight, inputs: times[layer.path][weight * inputs]


@dataclass(frozen=True)
class Budget:
    """What the widths of a net's layers may cost together.

    :param cost: of one layer, by the bits of its weights and of its inputs.
    :param full: all widths, at their largest; inputs may be missing where they cost nothing.
    :param free: names of those that may be lowered, in the order of the net, each layer's weights before its inputs.
    :param lowest: bits that none goes below.
    :param share: of the cost of ``full`` that may be left.
    """

    layers: Sequence[LayerFacts]
    cost: Callable[[LayerFacts, int, int], float]
    full: Widths
    free: Sequence[str]
    lowest: int
    share: float

    def of(self, widths: Widths) -> float:
        """Return what widths cost, as a share of the cost of the largest ones; free ones that are missing are these."""
        return self._total({**self.full, **widths}) / self._total(self.full)

    def _total(self, widths: Mapping[str, int]) -> float:
        each = (self.cost(x, widths[WEIGHTS + x.path], widths.get(INPUTS + x.path, 0)) for x in self.layers)
        return sum(each)

    def within(self, widths: Widths) -> dict[str, int]:
        """Return all widths, the free ones lowered by one bit, one after another from the back, until they fit.

        That goes on round after round until they fit, or none of them can be lowered.
        """
        found = {**self.full, **widths}
        while self.of(found) > self.share and any(found[name] > self.lowest for name in self.free):
            for name in reversed(self.free):
                found[name] = max(self.lowest, found[name] - 1)
                if self.of(found) <= self.share:
                    break
        return found


def bit_serial_times(layer: LayerFacts, planes: Iterable[int], runs: int = RUNS) -> dict[int, float]:
    """Measure here how long a layer takes on one example by arithmetic on bits, in seconds.

    Whole numbers of w bits times such of a bits are w * a products of bit planes, each an AND whose set bits are
    counted; so compute the accelerators with bits in series, of which BISMO is one.

    :param planes: numbers of pairs of planes to measure.
    """
    inputs = layer.parameters // layer.outputs
    positions = max(1, layer.macs // layer.parameters)
    left, right = (words(packed(torch.ones(rows, inputs, dtype=torch.bool))) for rows in (positions, layer.outputs))

    found = {}
    for count in planes:
        times = []
        for _ in range(runs):
            start = time.perf_counter()
            for _ in range(count):
                counted(np.bitwise_and, left, right)
            times.append(time.perf_counter() - start)
        found[count] = min(times)
    return found
