"""One net as attention surgery sees it: what can be removed, and proven cuts that remove it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from condensery.nets import plain
from condensery.surgery import Cut, Forward, call, casted
from condensery.surgery.attention.blocks import LayerUnit, draft_layers, layers_of
from condensery.surgery.attention.classes import KnownClasses
from condensery.surgery.attention.draft import Draft
from condensery.surgery.attention.heads import HeadDims, Heads, draft_head_dims, draft_heads, heads_of
from condensery.surgery.attention.neurons import Neurons, draft_neurons, neurons_of
from condensery.surgery.attention.proof import prove


class Anatomy:
    """Heads, MLP neurons and layers of one net; cuts are proven and returned, not applied.

    :param model: not changed; looked at without its transforms.
    :param classes: what is known of the classes that the net is made of.
    :param example: inputs of the right shape.
    :param forward: calls the model on the example and returns its outputs, a tree.
    """

    def __init__(self, model: nn.Module, classes: KnownClasses, example: Any, forward: Forward = call) -> None:
        self.net = plain(model).cpu().eval()
        self.classes = classes
        dtype = next((p.dtype for p in self.net.parameters() if p.is_floating_point()), torch.float32)
        self.example, self.forward = casted(example, dtype), forward
        self.removed, self.total = 0, 0

    @property
    def ratio(self) -> float:
        """Share of the units of its kind that the last cut removes."""
        return self.removed / self.total if self.total else 0.0

    def heads(self) -> list[Heads]:
        """Return the attention modules; ``reason`` tells which can't lose heads."""
        return heads_of(self.net, self.classes)

    def neurons(self) -> list[Neurons]:
        """Return the MLPs; ``reason`` tells which can't lose neurons."""
        return neurons_of(self.net, self.classes)

    def layers(self) -> list[LayerUnit]:
        """Return the layers; ``reason`` tells which can't be removed."""
        return layers_of(self.net, self.classes, lambda net: self.forward(net, self.example))

    def remove_heads(self, removed: Mapping[str, Sequence[int]]) -> Cut:
        """Return the cut that removes whole heads.

        :param removed: numbers of (query) heads, by path of the attention module.
        """
        total = sum(h.heads for h in self.heads())
        return self._cut(lambda draft: draft_heads(draft, removed, self.classes), total)

    def remove_head_dims(self, removed: Mapping[str, HeadDims | Sequence[int]]) -> Cut:
        """Return the cut that removes dimensions from heads.

        :param removed: by path of the attention module; plain numbers go from queries, keys and values of every head.
        """
        total = sum(h.kv_heads * (h.dims + h.value_dims) for h in self.heads())
        return self._cut(lambda draft: draft_head_dims(draft, removed, self.classes), total)

    def remove_neurons(self, removed: Mapping[str, Sequence[int]]) -> Cut:
        """Return the cut that removes neurons, by path of the MLP."""
        total = sum(n.neurons for n in self.neurons())
        return self._cut(lambda draft: draft_neurons(draft, removed, self.classes), total)

    def remove_layers(self, removed: Iterable[str]) -> Cut:
        """Return the cut that removes layers, by path; the ones that stay keep their names."""
        units = self.layers()
        return self._cut(lambda draft: draft_layers(draft, removed, units, self.classes), len(units))

    def _cut(self, fill: Callable[[Draft], int], total: int) -> Cut:
        """Return a proven cut.

        :param fill: fills a draft and returns how many units go.
        :param total: units of that kind in the net.
        """
        draft = Draft(self.net)
        self.removed, self.total = fill(draft), total
        cut = draft.cut()
        return prove(cut, self.net, self.example, self.forward, self.classes) if self.removed else cut
