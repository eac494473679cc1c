"""One net as attention surgery sees it: what can be removed, and proven cuts that remove it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from condensery.nets import plain
from condensery.surgery import Cut, call, casted
from condensery.surgery.attention.blocks import LayerUnit, draft_layers, layers_of
from condensery.surgery.attention.draft import Draft
from condensery.surgery.attention.heads import HeadDims, Heads, draft_head_dims, draft_heads, heads_of
from condensery.surgery.attention.neurons import Neurons, draft_neurons, neurons_of
from condensery.surgery.attention.proof import Forward, prove
from condensery.surgery.attention.streams import Width, draft_width, widths_of


class Anatomy:
    """Heads, MLP neurons, layers and width of one net; cuts are proven and returned, not applied.

    :param model: not changed; looked at without its transforms.
    :param example: inputs of the right shape.
    :param forward: calls the model on the example and returns one tensor.
    """

    def __init__(self, model: nn.Module, example: Any, forward: Forward = call) -> None:
        self.net = plain(model).cpu().eval()
        dtype = next((p.dtype for p in self.net.parameters() if p.is_floating_point()), torch.float32)
        self.example, self.forward = casted(example, dtype), forward
        self.removed, self.total = 0, 0

    @property
    def ratio(self) -> float:
        """Share of the units of its kind that the last cut removes."""
        return self.removed / self.total if self.total else 0.0

    def heads(self) -> list[Heads]:
        """Return the attention modules; ``reason`` tells which can't lose heads."""
        return heads_of(self.net)

    def neurons(self) -> list[Neurons]:
        """Return the MLPs; ``reason`` tells which can't lose neurons."""
        return neurons_of(self.net)

    def layers(self) -> list[LayerUnit]:
        """Return the layers; ``reason`` tells which can't be removed."""
        return layers_of(self.net, lambda net: self.forward(net, self.example))

    def widths(self) -> list[Width]:
        """Return the stacks of layers whose width is known; ``reason`` tells which can't be narrowed."""
        return widths_of(self.net)

    def remove_heads(self, removed: Mapping[str, Sequence[int]]) -> Cut:
        """Return the cut that removes whole heads.

        :param removed: numbers of (query) heads, by path of the attention module.
        """
        return self._cut(lambda d: draft_heads(d, removed), sum(h.heads for h in self.heads()))

    def remove_head_dims(self, removed: Mapping[str, HeadDims | Sequence[int]]) -> Cut:
        """Return the cut that removes dimensions from heads.

        :param removed: by path of the attention module; plain numbers go from queries, keys and values of every head.
        """
        total = sum(h.kv_heads * (h.dims + h.value_dims) for h in self.heads())
        return self._cut(lambda d: draft_head_dims(d, removed), total)

    def remove_neurons(self, removed: Mapping[str, Sequence[int]]) -> Cut:
        """Return the cut that removes neurons, by path of the MLP."""
        return self._cut(lambda d: draft_neurons(d, removed), sum(n.neurons for n in self.neurons()))

    def remove_layers(self, removed: Iterable[str]) -> Cut:
        """Return the cut that removes layers, by path; the ones that stay keep their names."""
        units = self.layers()
        return self._cut(lambda d: draft_layers(d, removed, units), len(units))

    def remove_width(self, removed: Mapping[str, Sequence[int]]) -> Cut:
        """Return the cut that removes channels of residual streams, by path of the list of layers."""
        return self._cut(lambda d: draft_width(d, removed), sum(w.channels for w in self.widths()))

    def _cut(self, drafting: Callable[[Draft], int], total: int) -> Cut:
        draft = Draft(self.net)
        self.removed, self.total = drafting(draft), total
        cut = draft.cut()
        return prove(cut, self.net, self.example, self.forward) if self.removed else cut
