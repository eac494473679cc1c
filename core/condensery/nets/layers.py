"""Registered layers: modules that stand in for plain ones and are rebuilt from a JSON config."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

from torch import Tensor, nn

from condensery.errors import UsageError
from condensery.nets.codecs import Coding
from condensery.nets.transforms import attach, attached


class StandIn(NamedTuple):
    """A plain layer that the surgeon cuts in a registered one's place: it follows channels through plain layers only.

    :param module: a convolution or linear layer that computes the same, nothing quantized; the registered layer counts
        its channels in attributes of the same names.
    :param tensors: by tensor of the module, the names of those of the registered layer that lose the same entries.
    """

    module: nn.Module
    tensors: Mapping[str, tuple[str, ...]]


class Counted(NamedTuple):
    """The work of one call of a layer.

    :param macs: multiply-accumulates, as the plain layer would do them.
    :param effective_macs: those whose weight is not zero.
    :param bitops: multiply-accumulates times the bits of both factors.
    :param moved_bytes: of the weights that it reads, at their stored width, and of the activations that it reads and
        writes, as they lie in memory; each number once.
    :param bits: the pairs of weight bits and input bits that occur.
    """

    macs: int
    effective_macs: int
    bitops: int
    moved_bytes: int
    bits: tuple[tuple[int, int], ...] = ()


class Layer(nn.Module, ABC):
    """A module that a method puts in a plain one's place (``stage.replace``), offered by ``register_layers``.

    Checkpoints and artifacts note its path, key and config, build ``Class(**config)`` again and fill in its tensors.
    """

    key: ClassVar[str] = ""
    """As it is registered; how a manifest names it."""

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """Return the JSON arguments that build this layer again; its tensors come from the state."""

    def counted(self) -> dict[str, Tensor]:
        """Return by name what counts as its parameters, zero for zero; a layer without any names its stored numbers."""
        return dict(self.named_parameters(recurse=False))

    def codings(self) -> dict[str, Coding]:
        """Return how an artifact stores its tensors, by name; what isn't named is stored as it is.

        What a coding stores must come back bit for bit.
        """
        return {}

    def work(self, *inputs: Any) -> Counted | None:
        """Return the work of one call; by default ``None``: it is counted from the operations that the call makes.

        A layer overrides it that computes otherwise than by products, as with bits packed into words.

        :param inputs: of the call.
        """
        return None

    def bake(self) -> nn.Module:
        """Return what stands in its place when the recipe ends: a registered layer, a plain module, or itself."""
        return self

    def stand_in(self) -> StandIn | None:
        """Return what the surgeon sees in its place, or ``None`` where its channels can't be cut."""
        return None


def put_stand_ins(net: nn.Module) -> dict[str, list[str]]:
    """Put stand-ins in the places of the layers that have them, what is attached to activations moves along.

    :param net: a copy, without transforms on weights; changed.
    :return: by name of a stand-in's tensor, the names of the layer's tensors that lose the same entries.
    """
    made: dict[nn.Module, StandIn] = {}
    names: dict[str, list[str]] = {}
    for path, module in list(net.named_modules(remove_duplicate=False)):
        found = made.get(module) or (module.stand_in() if path and isinstance(module, Layer) else None)
        if found is None:
            continue

        # A module that stands in two places gets one stand-in, in both.
        if module not in made:
            made[module] = found
            for item in attached(module):
                attach(found.module, item.target, item.name, item.transform, keep=item.keep)

        names |= {f"{path}.{theirs}": [f"{path}.{n}" for n in own] for theirs, own in found.tensors.items()}
        replace(net, path, found.module)
    return names


def replace(model: nn.Module, path: str, module: nn.Module) -> None:
    """Put a module in another one's place.

    :raises UsageError: if the net has no module there, or ``path`` is the net itself.
    """
    parent, _, name = path.rpartition(".")
    try:
        owner = model.get_submodule(parent)
    except AttributeError:
        raise UsageError(f"the net has no module {path!r}") from None
    if not name or name not in owner._modules:
        raise UsageError(f"the net has no module {path!r}")
    owner._modules[name] = module
