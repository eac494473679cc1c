"""Channels on their way from the layers that write them to those that read them, and what keeps that way open."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from condensery import Stage, Weight
from condensery.surgery import Group
from condensery_plugins.pruning.weight_groups import Groups, living, with_largest

Used = Mapping[str, Tensor]
"""By path of a layer, which of its weights are used: bool, of the weight's shape."""


class Passage:
    """Channels that can only be cut together: filter i of every layer that writes them, and what reads its output.

    :param group: of layers whose channels hang together.
    :param weights: of the net's layers, by path.
    """

    def __init__(self, stage: Stage, group: Group, weights: Mapping[str, Weight]) -> None:
        self.weights, self.writers, self.channels = weights, group.layers, group.channels
        self.arrives: dict[str, Tensor] = {}
        """By path of a layer that reads the channels, which one arrives at each of its inputs, -1 for none of them:
        int64, ``(inputs,)``. Empty if nothing reads them, or if other modules than the net's layers do."""

        for channel in range(group.channels):
            for path, inputs in stage.surgeon.inputs_gone({group.layers[0]: [channel]}).items():
                if path not in weights:
                    self.arrives = {}
                    return
                if path not in self.arrives:
                    width = Groups(weights[path], "channel").norms().numel()
                    self.arrives[path] = torch.full((width,), -1, device=stage.device)
                self.arrives[path][inputs] = channel

    def written(self, used: Used) -> Tensor:
        """Return which channels some layer makes of more than zeros: bool, ``(channels,)``."""
        return torch.stack([self._writes(path, used) for path in self.writers]).any(0)

    def read(self, used: Used) -> Tensor:
        """Return which channels some layer makes something of: bool, ``(channels,)``; all, where that isn't known."""
        if not self.arrives:
            return self.written(used).new_ones(self.channels)
        return torch.stack([self._reads(path, used) for path in self.arrives]).any(0)

    def dead(self, used: Used) -> Tensor:
        """Return which channels can be cut, because no layer writes or no layer reads them: bool, ``(channels,)``.

        A layer that uses some of them keeps one, so that the cut leaves no layer without weights.
        """
        dead = ~(self.written(used) & self.read(used))
        users = [self._writes(path, used) for path in self.writers]
        for mine in users + [self._reads(path, used) for path in self.arrives]:
            if bool(mine.any()) and bool(dead[mine].all()):
                dead[mine.nonzero()[0]] = False
        if bool(dead.all()):
            dead[0] = False
        return dead

    def open_to(self, weight: Weight, used: Used) -> Tensor:
        """Return which weights of a layer take in what another one writes, and make what another one reads.

        A side on which nothing is left says nothing.

        :returns: bool, of the weight's shape.
        """
        found = torch.ones_like(weight.latent, dtype=torch.bool)
        convolution_groups = int(getattr(weight.module, "groups", 1))

        if weight.path in self.writers:
            read = self.read(used)
            if bool(read.any()):
                found &= Groups(weight, "filter").spread(read.view(convolution_groups, -1, 1, 1))

        if weight.path in self.arrives:
            written = self.written(used)
            if bool(written.any()):
                others = written.new_ones(1)  # found at -1, for inputs at which none of these channels arrives
                inputs = torch.cat([written, others])[self.arrives[weight.path]]
                found &= Groups(weight, "channel").spread(inputs.view(convolution_groups, 1, -1, 1))
        return found

    def _writes(self, path: str, used: Used) -> Tensor:
        """Return which channels a layer writes: bool, ``(channels,)``."""
        return Groups(self.weights[path], "filter").around(used[path]).flatten()

    def _reads(self, path: str, used: Used) -> Tensor:
        """Return which channels a layer reads: bool, ``(channels,)``."""
        inputs = Groups(self.weights[path], "channel").around(used[path]).flatten()
        found = inputs.new_zeros(self.channels + 1)
        found[self.arrives[path][inputs]] = True
        return found[:-1]  # without the last one, which stands for other channels


def passages(stage: Stage, used: Used) -> list[Passage]:
    """Return the student's channels that can be cut one by one, as they pass; none if all layers use all of theirs."""
    weights = stage.weights().by_path
    sides = [Groups(w, kind).around(used[path]) for path, w in weights.items() for kind in ("filter", "channel")]
    if all(bool(side.all()) for side in sides):
        return []
    found = [g for g in stage.surgeon.prunable() if g.blocks == 1 and set(g.layers) <= set(weights)]
    return [Passage(stage, group, weights) for group in found]


class Left:
    """What is left of a layer while its weak groups go: a weight is, if all the groups that it belongs to stay.

    :param kinds: of groups that the layer has.
    :param threshold: the largest root mean square of a group that goes; each convolution group keeps its largest one.
    """

    def __init__(self, weight: Weight, kinds: Iterable[str], threshold: float) -> None:
        self.tensor = weight
        self.groups = [Groups(weight, kind) for kind in kinds]
        scores = [groups.strengths() for groups in self.groups]
        self.keep = [with_largest(s > threshold, s) for s in scores]
        """By kind, which groups stay."""

    @property
    def kept(self) -> Tensor:
        """Which weights are in no group that goes: bool, of the weight's shape."""
        found = torch.ones_like(self.tensor.latent, dtype=torch.bool)
        for groups, keep in zip(self.groups, self.keep, strict=True):
            found &= groups.spread(keep)
        return found

    @property
    def used(self) -> Tensor:
        """Which of these are not zero."""
        return self.kept & (living(self.tensor) != 0)

    def keep_largest_of(self, chosen: Tensor) -> None:
        """Keep the groups that the largest of some weights belongs to.

        :param chosen: bool, of the weight's shape.
        """
        sizes = torch.where(chosen, living(self.tensor).detach().abs(), -1.0)
        largest = torch.zeros_like(chosen)
        largest.view(-1)[sizes.argmax()] = True
        self.keep = [keep | groups.around(largest) for groups, keep in zip(self.groups, self.keep, strict=True)]


def keep_alive(stage: Stage, left: Mapping[str, Left], ways: Sequence[Passage]) -> None:
    """Keep more groups of layers in which those that stay don't meet, with each other or with their neighbours'.

    Where a layer's largest filter and its largest channel cross there may be nothing but zeros; and a filter is of no
    use to a next layer that keeps another channel. Such a layer keeps the groups of its largest weight too, of those
    that have neighbours on both sides if there are any. In the order of a forward pass: what arrives at a layer is
    settled when its turn comes.

    :param left: of each layer, by path; one without groups stays as it is.
    """
    used = {path: layer.used for path, layer in left.items()}
    for layer in [left[path] for path in stage.order() if path in left and left[path].groups]:
        some = living(layer.tensor) != 0
        between = some.clone()
        for way in ways:
            between &= way.open_to(layer.tensor, used)

        path = layer.tensor.path
        if bool(some.any()) and not bool((used[path] & between).any()):
            layer.keep_largest_of(between if bool(between.any()) else some)
            used[path] = layer.used
