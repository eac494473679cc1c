"""What a plugin says of the classes that attention nets are made of, one row for each class.

A row is an :class:`Attention`, an :class:`Mlp` or a :class:`Block`. A plugin offers it through ``register_attention``,
under the qualified name of the class. The exact class counts, because shapes don't tell a fused ``(3, heads, dims)``
projection from one that is laid out head by head: both are cut without an error, one of them wrongly.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from condensery.surgery.attention.projections import find, join, outputs


class Part(NamedTuple):
    """Where one projection keeps some heads.

    :param module: path of the projection.
    :param table: int64 ``(heads, dims)``: which of its outputs belong to each head; for the projection behind the
        attention, which of its inputs.
    """

    module: str
    table: Tensor

    def slots(self, heads: Tensor, dims: Tensor) -> Tensor:
        """Return which outputs belong to some dimensions of some heads.

        :param heads: int64 ``(n,)``: numbers of heads.
        :param dims: int64 ``(n, left)``: numbers of dimensions in each of these heads.
        :returns: int64 ``(n * left,)``.
        """
        return self.table[heads].gather(1, dims).flatten()


class Sizes(NamedTuple):
    """How many heads, heads of keys and values, and dimensions an attention has."""

    heads: int
    kv_heads: int
    dims: int
    value_dims: int


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class View:
    """How one attention module lays out its heads.

    :param q: projections whose outputs are laid out like the queries; ``k`` like the keys, ``v`` like the values.
    :param out: the projection that reads the heads.
    :param attributes: new attributes of the module, given the sizes after the cut.
    :param scale: what the scores are divided by: ``given``, by an attribute, which stays as it is; ``tensor``, by the
        root of the head size that the tensors have when the net runs. With the latter, queries are multiplied with a
        factor when head dimensions go.
    :param scale_attribute: name of the attribute from which another attention mode takes the same number as ``tensor``.
    :param per_head: tensors that have an entry for each head, and the axis of these entries.
    :param rope: rotary tables: tensors with an entry for each pair of dimensions, i and i + dims / 2, that turn
        together. They belong to all attention modules that name them.
    :param tied: values must keep as many dimensions as queries and keys.
    :param blocked: why no head can go, if so; ``dims_blocked`` why no head dimension can.
    :param forgets: attributes that a forward pass fills and that a cut makes wrong: dicts, emptied by the cut.
    """

    q: tuple[Part, ...]
    k: tuple[Part, ...]
    v: tuple[Part, ...]
    out: Part
    attributes: Callable[[Sizes], dict[str, Any]]
    scale: Literal["given", "tensor"] = "given"
    scale_attribute: str | None = None
    per_head: tuple[tuple[str, int], ...] = ()
    rope: tuple[str, ...] = ()
    tied: bool = True
    blocked: str | None = None
    dims_blocked: str | None = None
    forgets: tuple[str, ...] = ()

    @property
    def sizes(self) -> Sizes:
        """Heads and dimensions, read off the tables."""
        heads, dims = self.q[0].table.shape
        kv_heads, value_dims = self.v[0].table.shape
        return Sizes(heads, kv_heads, dims, value_dims)


class Place(NamedTuple):
    """An attention module and where it stands in its net: what the function of a row is given."""

    net: nn.Module
    path: str

    @property
    def module(self) -> Any:
        """The attention module."""
        return self.net.get_submodule(self.path)

    def at(self, name: str) -> str:
        """Return the path of something inside the module; each ``../`` in front of the name goes up one module."""
        return join(self.path, name)

    def has(self, name: str) -> bool:
        """Tell whether there is such a module inside."""
        return find(self.net, self.at(name)) is not None

    def outputs(self, name: str) -> int:
        """Return how many outputs a projection has.

        :raises UsageError: if it is no plain projection.
        """
        return outputs(self.net, self.at(name))

    def part(self, name: str, heads: int, dims: int, start: int = 0, step: int | None = None) -> Part:
        """Return where a projection keeps heads that lie one after another.

        :param start: number of the first head's first output.
        :param step: from one head to the next; by default they lie side by side.
        """
        first = start + torch.arange(heads)[:, None] * (step or dims)
        return Part(self.at(name), first + torch.arange(dims))

    def fused(self, name: str, heads: int) -> tuple[Part, Part, Part]:
        """Return queries, keys and values of one projection that is laid out ``(3, heads, dims)``."""
        rows = self.outputs(name) // 3
        q, k, v = (self.part(name, heads, rows // heads, i * rows) for i in range(3))
        return q, k, v


class Row:
    """What is said of one class: an :class:`Attention`, an :class:`Mlp` or a :class:`Block`."""

    what: ClassVar[str]


@dataclasses.dataclass(frozen=True)
class Attention(Row):
    """A class that computes attention.

    :param view: tells how a module of the class lays out its heads.
    :param in_float32: something in it is computed in float32 whatever it is given, so that no proof can be exact.
    """

    what = "attention"

    view: Callable[[Place], View]
    in_float32: bool = False


@dataclasses.dataclass(frozen=True)
class Mlp(Row):
    """A class of MLPs with one hidden layer. Names are those of modules inside it; ``../`` goes up one module.

    :param up: the projections that make the neurons; two where one gates the other.
    :param down: the projection that reads the neurons.
    :param norm: a batch normalization between them, if any.
    :param plain: a module that must be an ``nn.Identity``: as a norm over the neurons it would count removed ones.
    :param size: name of an attribute that counts the neurons.
    """

    what = "MLP"

    up: tuple[str, ...]
    down: str
    norm: str | None = None
    plain: str | None = None
    size: str | None = None


@dataclasses.dataclass(frozen=True)
class Block(Row):
    """A class of layers, of which a net has a stack; each reads the residual stream and adds to it.

    :param writers: the modules inside it that write to the stream: with their parameters at zero the layer does
        nothing. Empty where a norm follows the sum, so that no zeros make the layer do nothing.
    """

    what = "layer"

    writers: tuple[str, ...]
