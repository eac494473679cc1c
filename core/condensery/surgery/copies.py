"""Copies of a net to try cuts on, and whether another net is built alike, so that what was found is true of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from condensery.nets import deep_copied
from condensery.surgery.left import Left
from condensery.tasks import tensors_in


def state(net: nn.Module) -> list[Tensor]:
    """Return the parameters and buffers of a net in its own order, each once."""
    return [*net.parameters(), *net.buffers()]


def built(net: nn.Module, example: Any) -> list[Any]:
    """Return what channels hang together by, to be compared: modules, their settings, shapes, and indices."""
    found: list[Any] = []
    for path, module in net.named_modules():
        public = {n: v for n, v in vars(module).items() if n[0] != "_"}
        settings = {n: v for n, v in public.items() if isinstance(v, int | float | str | tuple | list | Callable)}
        # Lists that hold tensors can't be compared; what is a parameter stands below.
        settings = {n: v for n, v in settings.items() if not tensors_in(v)}
        found.append((path, type(module), settings))
    for name, tensor in named_tensors(net).items():
        indices = tensor.tolist() if tensor.dim() and not tensor.is_floating_point() else None
        found.append((name, tensor.shape, tensor.dtype, indices))

    return [*found, *((tensor.shape, tensor.dtype) for tensor in tensors_in(example))]


def named_tensors(net: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers by name, tied ones under each of their names."""
    return {**dict(net.named_parameters(remove_duplicate=False)), **dict(net.named_buffers(remove_duplicate=False))}


def kernels(net: nn.Module) -> set[int]:
    """Return the identities of the weights of a net's convolutions."""
    return {id(module.weight) for module in net.modules() if isinstance(module, _ConvNd)}


def numbered(net: nn.Module) -> nn.Module:
    """Return a copy in which each entry of a float tensor is its own place in the flattened tensor, as float64.

    A convolution's weight is as if its kernel had one place: what is cut are channels, with all places of theirs.
    """
    small = kernels(net)

    def places(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor
        shape = [*tensor.shape[:2], *(1 for _ in tensor.shape[2:])] if id(tensor) in small else tensor.shape
        found = torch.arange(math.prod(shape), dtype=torch.float64).view(shape)
        return nn.Parameter(found, requires_grad=False) if isinstance(tensor, nn.Parameter) else found

    return deep_copied(net, {id(tensor): places(tensor) for tensor in state(net)})


def read_off(net: nn.Module, shadow: nn.Module) -> dict[str, Left]:
    """Return what is left of each tensor of a net whose shape changed.

    :param shadow: its :func:`numbered` copy, after the cut.
    """
    tensors, left, small = {}, named_tensors(shadow), kernels(net)
    for name, old in named_tensors(net).items():
        numbers, kernel = left[name], id(old) in small
        new = (*numbers.shape[:2], *old.shape[2:]) if kernel else tuple(numbers.shape)
        if new != tuple(old.shape):
            places = math.prod(old.shape[2:]) if kernel else 1
            tensors[name] = Left(tuple(old.shape), new, numbers.detach().flatten().long(), places)
    return tensors
