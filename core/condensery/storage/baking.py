"""What a net becomes when its recipe ends: plain weights and registered layers, each tensor with its coding."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from condensery.contract import Registry
from condensery.errors import MethodError
from condensery.nets import (
    BitPack,
    Coding,
    Dense,
    Layer,
    Record,
    attach,
    attached,
    latent_of,
    lent,
    owner_of,
    replace,
    sites,
    stack_of,
)
from condensery.storage.checkpoint import tensors_of
from condensery.storage.decoding import Source, decode

TOLERANCE = 1e-5
"""How far a weight may move when it is stored, as a share of the largest weight of its tensor."""


@dataclasses.dataclass
class Stored:
    """One tensor as an artifact stores it.

    :param record: its coding as JSON data, shapes and lengths included.
    :param data: its bytes, in the record's order.
    :param coding: what it is coded by; ``coding.cost`` of the tensor says its bytes beforehand.
    """

    record: Record
    data: list[Tensor]
    coding: Coding


@dataclasses.dataclass
class Baked:
    """A net at its recipe's end.

    :param net: plain weights, already through their codecs' decode; transforms on activations are still there.
    :param stored: by tensor name, those that are not stored as they are.
    :param bits: by tensor name, the width that a weight's transforms gave its values.
    :param moved: the largest change of a weight by storing it, as a share of the largest weight of its tensor.
    """

    net: nn.Module
    stored: dict[str, Stored]
    bits: dict[str, int]
    moved: float


def bake(model: nn.Module, registry: Registry, *, trial: bool = False) -> Baked:
    """Return a net with plain weights and baked layers; the model itself stays as it is.

    What is stored as it is lies where it lay: nobody may train the model after that.

    :param trial: of the weights that have the same transforms only the smallest is coded, to see that it can be.
    :raises MethodError: if a codec changes a weight, or a quantizer says it's stored on another grid than it used.
    """
    net = lent(model).eval()

    # Layers first, then weights: a layer that a method put in may bake into a plain one, whose weights are stored.
    for path, module in list(net.named_modules()):
        if isinstance(module, Layer):
            made = module.bake()
            if made is not module:
                _replace(net, path, made)
    replaced: set[str] = set()
    for item in attached(net):
        path = item.target.rpartition(".")[0]
        if ":" in item.target or path in replaced:
            continue
        layer = item.transform.bake(owner_of(net, item.target)[0])
        if layer is not None:
            _replace(net, path, layer)
            replaced.add(path)

    stored: dict[str, Stored] = {}
    bits: dict[str, int] = {}
    moved = 0.0
    targets = list(dict.fromkeys(a.target for a in attached(net) if ":" not in a.target))
    for target in _smallest(net, targets) if trial else targets:
        stack = stack_of(*owner_of(net, target))
        width = stack.width() if stack is not None else None
        if width is not None:
            bits[target] = width
        stored[target], change = _bake_weight(net, target, registry)
        moved = max(moved, change)

    for path, module in net.named_modules():
        for name, coding in module.codings().items() if isinstance(module, Layer) else ():
            target = f"{path}.{name}" if path else name
            stored[target] = _exactly(tensors_of(module)[name].detach().cpu(), coding, target, registry)

    # A loaded net is laid out plainly, and so must be the one it's compared with.
    for value in tensors_of(net).values():
        value.data = value.data.contiguous()
    return Baked(net, stored, bits, moved)


def _smallest(net: nn.Module, targets: list[str]) -> list[str]:
    """Return, of the weights that have transforms of the same classes, the one with the fewest entries."""
    found: dict[tuple[type, ...], str] = {}
    for target in sorted(targets, key=lambda t: latent_of(*owner_of(net, t)).numel()):
        stack = stack_of(*owner_of(net, target))
        if stack is not None:
            found.setdefault(tuple(type(transform) for transform in stack.transforms.values()), target)
    return list(found.values())


def _replace(net: nn.Module, path: str, made: nn.Module) -> None:
    """Put a baked layer in a layer's place; transforms on its activations stay."""
    kept = [(site, stack) for site, stack in sites(net.get_submodule(path))]
    replace(net, path, made)
    for site, stack in kept:
        for name, transform in stack.transforms.items():
            attach(net, f"{path}:{site}", name, transform)  # type: ignore[arg-type]


def _bake_weight(net: nn.Module, target: str, registry: Registry) -> tuple[Stored, float]:
    """Make one weight plain; returns how it is stored and how far it moved."""
    owner, tensor = owner_of(net, target)
    stack = stack_of(owner, tensor)
    assert stack is not None

    # The weight becomes what decoding gives, so that a loaded net computes with the very same numbers.
    with torch.no_grad():
        final = getattr(owner, tensor).detach()
        coding = Coding(Dense.of(final))
        for transform in stack.transforms.values():
            coding = transform.code(coding, final)  # type: ignore[operator]
        kept = store(final.cpu(), coding)
        value = decode(kept.record, Source(torch.cat(kept.data), target), registry).to(final.dtype)
        change = float((value - final.cpu()).abs().max()) if final.numel() else 0.0
        size = float(final.abs().max()) if final.numel() else 0.0

    if change > TOLERANCE * size:
        raise MethodError(f"{target}: stored as {coding.spelled()} it differs by {change:g}, of {size:g} at most")

    parametrize.remove_parametrizations(owner, tensor, leave_parametrized=False)
    owner._parameters[tensor] = nn.Parameter(value.to(final.device), requires_grad=False)
    return kept, change / size if size else 0.0


def _exactly(values: Tensor, coding: Coding, target: str, registry: Registry) -> Stored:
    """Return how a layer's own tensor is stored.

    :raises MethodError: if other numbers would come back.
    """
    kept = store(values, coding)
    if not torch.equal(decode(kept.record, Source(torch.cat(kept.data), target), registry).to(values.dtype), values):
        raise MethodError(f"{target}: stored as {coding.spelled()} it comes back as other numbers")
    return kept


def store(values: Tensor, coding: Coding) -> Stored:
    """Return a tensor as a coding stores it."""
    record, data = coding.encode(values)
    return Stored(record, data, coding)


def plain(values: Tensor) -> Stored:
    """Return a tensor that nothing was said of: as it is; whole numbers in as few bits as they need."""
    whole = values.dtype in (torch.int64, torch.int32, torch.int16)
    fits = whole and values.numel() and int(values.min()) >= -(2**31) and int(values.max()) < 2**31
    return store(values, Coding(BitPack.of(values) if fits else Dense.of(values)))
