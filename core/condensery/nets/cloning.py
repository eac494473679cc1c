"""Copies of a net that share nothing with the original."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize

from condensery.nets.foreign import refuse_foreign
from condensery.nets.taps import remove_taps
from condensery.nets.transforms import Transform, attached, detach, parametrized, plain_name, stack_of
from condensery.nets.twins import deep_copied


class Frozen(NamedTuple):
    """What the builder of a net has frozen: names of parameters, and paths of modules that stay in eval mode."""

    parameters: frozenset[str]
    modules: frozenset[str]


NOTHING = Frozen(frozenset(), frozenset())


def clone(model: nn.Module) -> nn.Module:
    """Return an independent copy: fresh parametrized classes, no taps, in-place activations off.

    ``deepcopy`` alone lets the copy share the dynamic class that ``parametrize`` made, so that removing a
    parametrization from the copy breaks the original; and a tap before ``ReLU(inplace=True)`` reads wrong values.
    """
    return _copied(model, {})


def lent(model: nn.Module) -> nn.Module:
    """Return a copy whose parameters lie in the net's own memory, so that it takes next to none.

    What is written into one of them is written into the net's as well; one may be moved, frozen, cut, or replaced by
    another. Buffers are copied, because a pass may write to them, and so is all that belongs to transforms.
    """
    return _copied(model, _made_of(model, lambda value: value))


def hollow(model: nn.Module) -> nn.Module:
    """Return a copy whose parameters have shapes and take no memory: other nets can be compared with it."""
    return _copied(model, _made_of(model, lambda value: value.to("meta")))


def _made_of(model: nn.Module, make: Callable[[Tensor], Tensor]) -> dict[int, Any]:
    """Return other parameters for a net's own, by identity of these; transforms' are left out."""
    owners = [m for m in model.modules() if not isinstance(m, Transform)]
    own = [p for m in owners for p in m._parameters.values() if p is not None]
    return {id(p): type(p)(make(p.detach()), p.requires_grad) for p in own}


def _copied(model: nn.Module, shared: dict[int, Any]) -> nn.Module:
    """Return a copy as :func:`clone` does.

    :param shared: by identity, what the copy has in common with the net.
    """
    refuse_foreign(model)
    # A recurrent layer holds its weights as it last computed them through transforms, which can't be copied. It gets
    # an empty list instead of them, and computes them anew in its next pass.
    computed = [m for m in model.modules() if isinstance(m, nn.RNNBase) and parametrize.is_parametrized(m)]
    twin: nn.Module = deep_copied(model, {**shared, **{id(m._flat_weights): [] for m in computed}})
    for module in list(twin.modules()):
        if parametrize.is_parametrized(module):
            _renew(module)
        if getattr(module, "inplace", False) is True:
            module.inplace = False  # type: ignore[assignment]
        remove_taps(module)
    return twin


def _renew(module: nn.Module) -> None:
    """Give one parametrized module a class of its own."""
    stacks = {name: stack_of(module, name) for name in module.parametrizations}  # type: ignore[union-attr]
    latents = {name: module.parametrizations[name].original for name in stacks}  # type: ignore[union-attr, index]
    module.__class__ = parametrize.type_before_parametrizations(module)
    del module._modules["parametrizations"]
    for name, latent in latents.items():
        assert isinstance(latent, nn.Parameter)
        module.register_parameter(name, latent)
    for name, stack in stacks.items():
        assert stack is not None
        parametrized(module, name, stack)


def plain(model: nn.Module) -> nn.Module:
    """Return a copy without transforms, the latent tensors as weights; what changes an activation's shape stays on."""
    twin = clone(model)
    for item in attached(twin):
        if not item.transform.reshapes:
            detach(twin, item.target, item.name)
    return twin


def note_owners(net: nn.Module) -> None:
    """Note on a fresh net what its builder froze; a net that is frozen as a whole was only stored so."""
    still = {name for name, p in net.named_parameters() if not p.requires_grad}
    if len(still) == len(list(net.parameters())):
        still = set()

    # A norm whose layers are all frozen keeps its statistics too, as one does that the builder put in eval mode.
    kept = [path for path, module in net.named_modules() if net.training and not module.training]
    for path, module in net.named_modules():
        inner = [f"{path}.{name}".lstrip(".") for name, _ in module.named_parameters()]
        if inner and still.issuperset(inner):
            kept += [f"{path}.{p}".rstrip(".") for p, m in module.named_modules() if isinstance(m, _BatchNorm)]
    if still or kept:
        net._condensery_frozen = Frozen(frozenset(still), frozenset(kept))  # type: ignore[assignment]


def keep_owners(net: nn.Module) -> None:
    """Put modules in eval mode again, and take gradients from parameters, where the net's builder had set it so."""
    noted = getattr(net, "_condensery_frozen", NOTHING)
    for path, module in net.named_modules():
        if path in noted.modules:
            module.training = False
    for name, parameter in net.named_parameters():
        if plain_name(name) in noted.parameters:
            parameter.requires_grad_(False)


def with_gradients(net: nn.Module, *, wanted: bool) -> None:
    """Let a net's parameters have gradients, or none; whole numbers, such as an index, never have any."""
    for parameter in net.parameters():
        if parameter.is_floating_point() or parameter.is_complex():
            parameter.requires_grad_(wanted)


def frozen(model: nn.Module) -> nn.Module:
    """Put a net in eval mode without gradients and return it."""
    model.eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model


@contextlib.contextmanager
def evaluating(*nets: nn.Module) -> Iterator[None]:
    """Put nets in eval mode for a while, so that no statistics move; then each module's own mode is put back."""
    modes = {module: module.training for net in nets for module in net.modules()}
    for net in nets:
        net.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def fill_from(net: nn.Module, source: nn.Module) -> None:
    """Give a net another one's numbers, by plain name; what only one of them has stays.

    Where the net was cut, its tensors take the leading part of the larger ones.
    """
    theirs = {**dict(source.named_parameters()), **dict(source.named_buffers())}
    mine = {plain_name(name): parameter for name, parameter in net.named_parameters()} | dict(net.named_buffers())
    with torch.no_grad():
        for name, tensor in mine.items():
            if name in theirs and theirs[name].dim() == tensor.dim():
                tensor.copy_(theirs[name][tuple(slice(size) for size in tensor.shape)])


def same_numbers(left: nn.Module, right: nn.Module) -> bool:
    """Tell whether two nets have equal parameters and buffers, bit for bit."""
    a, b = left.state_dict(), right.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
