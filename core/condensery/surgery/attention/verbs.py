"""What a stage's surgeon can do to attention nets."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from torch import nn

from condensery.surgery import Cut
from condensery.surgery.attention.anatomy import Anatomy
from condensery.surgery.attention.blocks import LayerUnit
from condensery.surgery.attention.heads import HeadDims, Heads, heads_of
from condensery.surgery.attention.neurons import Neurons, neurons_of
from condensery.surgery.attention.rows import View
from condensery.surgery.attention.views import view_of

if TYPE_CHECKING:
    from condensery.run import Stage


@dataclasses.dataclass(frozen=True, eq=False)
class UnitRemoval:
    """What was removed of an attention net.

    :param cut: the proven record; ``None`` where nothing had to go.
    :param ratio: share of the net's units of that kind that went; of all that it had before this cut.
    """

    cut: Cut | None
    ratio: float


class AttentionSurgeon(ABC):
    """Removes given units; what can't be removed raises UsageError with the reason, a wrong cut MethodError."""

    stage: Stage

    @property
    @abstractmethod
    def net(self) -> nn.Module:
        """The net that it cuts."""

    @abstractmethod
    def _apply(self, cut: Cut) -> None:
        """Cut the net, its transforms and its optimizer's state."""

    @property
    def anatomy(self) -> Anatomy:
        """What can be removed, and cuts that aren't applied."""
        task = self.stage.task
        return Anatomy(self.net, self.stage.classes, task.example(2), task.answers)

    def heads(self) -> list[Heads]:
        """Return the attention modules, in the net's order; ``reason`` tells which can't lose heads."""
        return heads_of(self.net, self.stage.classes)

    def view(self, path: str) -> View:
        """Return how the heads of one attention module lie in its projections.

        :raises UsageError: if its class isn't known.
        """
        return view_of(self.net, path, self.stage.classes)

    def neurons(self) -> list[Neurons]:
        """Return the MLPs, in the net's order; ``reason`` tells which can't lose neurons."""
        return neurons_of(self.net, self.stage.classes)

    def layers(self) -> list[LayerUnit]:
        """Return the layers, in the net's order; ``reason`` tells which can't be removed."""
        return self.anatomy.layers()

    def remove_heads(self, removed: Mapping[str, Sequence[int]]) -> UnitRemoval:
        """Remove whole heads.

        :param removed: numbers of (query) heads, by path of the attention module. Where queries share keys and values
            in groups, whole groups or as many of each.
        """
        return self._remove(lambda anatomy: anatomy.remove_heads(removed))

    def remove_head_dims(self, removed: Mapping[str, HeadDims | Sequence[int]]) -> UnitRemoval:
        """Remove dimensions from heads; the scale of the scores stays what it was.

        :param removed: by path of the attention module; plain numbers go from queries, keys and values of every head.
        """
        return self._remove(lambda anatomy: anatomy.remove_head_dims(removed))

    def remove_neurons(self, removed: Mapping[str, Sequence[int]]) -> UnitRemoval:
        """Remove neurons, by path of the MLP."""
        return self._remove(lambda anatomy: anatomy.remove_neurons(removed))

    def remove_layers(self, removed: Iterable[str]) -> UnitRemoval:
        """Remove layers, by path; the ones that stay keep their names."""
        return self._remove(lambda anatomy: anatomy.remove_layers(removed))

    def _remove(self, cut_out_of: Callable[[Anatomy], Cut]) -> UnitRemoval:
        """Apply a proven cut, if anything goes by it."""
        anatomy = self.anatomy
        cut = cut_out_of(anatomy)
        if not anatomy.removed:
            return UnitRemoval(None, 0.0)
        self._apply(cut)
        return UnitRemoval(cut, anatomy.ratio)
