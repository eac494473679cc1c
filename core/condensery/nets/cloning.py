"""Copies of a net that share nothing with the original."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn.utils import parametrize

from condensery.nets.transforms import Transform, attached, detach, parametrized, stack_of


def clone(model: nn.Module) -> nn.Module:
    """Return an independent copy: fresh parametrized classes, no taps, in-place activations off.

    ``deepcopy`` alone lets the copy share the dynamic class that ``parametrize`` made, so that removing a
    parametrization from the copy breaks the original; and a tap before ``ReLU(inplace=True)`` reads wrong values.
    """
    return _independent(copy.deepcopy(model))


def lent(model: nn.Module) -> nn.Module:
    """Return a copy with modules of its own and the net's own tensors.

    Nobody may write to these; a cut puts others in their places. Only transforms cut theirs in place: they get copies.
    """
    owners = [m for m in model.modules() if not isinstance(m, Transform)]
    tensors = [t for m in owners for t in (*m._parameters.values(), *m._buffers.values()) if t is not None]
    return _independent(copy.deepcopy(model, {id(t): t for t in tensors}))


def _independent(twin: nn.Module) -> nn.Module:
    """Take off a copy what it would share with its original."""
    for module in list(twin.modules()):
        if parametrize.is_parametrized(module):
            _renew(module)
        if getattr(module, "inplace", False) is True:
            module.inplace = False  # type: ignore[assignment]
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


def frozen(model: nn.Module) -> nn.Module:
    """Put a net in eval mode without gradients and return it."""
    model.eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model


def same_numbers(left: nn.Module, right: nn.Module) -> bool:
    """Tell whether two nets have equal parameters and buffers, bit for bit."""
    a, b = left.state_dict(), right.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
