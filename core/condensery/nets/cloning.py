"""Copies of a net that share nothing with the original."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.utils import parametrize

from condensery.nets.taps import remove_taps
from condensery.nets.transforms import attached, detach, plain_name, stack_of


def clone(model: nn.Module) -> nn.Module:
    """Return an independent copy: fresh parametrized classes, no taps, in-place activations off.

    ``deepcopy`` alone lets the copy share the dynamic class that ``parametrize`` made, so that removing a
    parametrization from the copy breaks the original; and a tap before ``ReLU(inplace=True)`` reads wrong values.
    """
    twin = copy.deepcopy(model)
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
        parametrize.register_parametrization(module, name, stack, unsafe=True)


def plain(model: nn.Module) -> nn.Module:
    """Return a copy without transforms, the latent tensors as weights; what changes an activation's shape stays on."""
    twin = clone(model)
    for item in attached(twin):
        if not item.transform.reshapes:
            detach(twin, item.target, item.name)
    return twin


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
