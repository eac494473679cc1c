"""The shadow of a net: a copy whose tensors hold their own flat indices, so that a cut of it tells what is left."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from condensery.surgery.cuts import Left


def shadow_of(net: nn.Module) -> nn.Module:
    """Return a copy of a net in which each floating tensor holds the numbers of its own entries, as float64."""

    def indices(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor
        places = torch.arange(tensor.numel(), dtype=torch.float64).view(tensor.shape)
        return nn.Parameter(places, requires_grad=False) if isinstance(tensor, nn.Parameter) else places

    return copy.deepcopy(net, {id(t): indices(t) for t in [*net.parameters(), *net.buffers()]})


def read_off(net: nn.Module, shadow: nn.Module) -> tuple[dict[str, Left], dict[str, dict[str, tuple[Any, Any]]]]:
    """Return what is left of each tensor whose shape changed, and the changed attributes by module path.

    :param shadow: of the net, cut.
    """
    tensors = {}
    left = tensors_by_name(shadow)
    for name, old in tensors_by_name(net).items():
        new = left[name]
        if new.shape != old.shape:
            tensors[name] = Left(tuple(old.shape), tuple(new.shape), new.detach().flatten().long())

    attributes: dict[str, dict[str, tuple[Any, Any]]] = {}
    for path, module in net.named_modules():
        after = vars(shadow.get_submodule(path))
        for name, value in vars(module).items():
            if isinstance(value, int | tuple) and after[name] != value:
                attributes.setdefault(path, {})[name] = (value, after[name])
    return tensors, attributes


def built(net: nn.Module, example: Any) -> list[Any]:
    """Return what channels hang together by, to be compared: modules, their settings, shapes, and indices."""
    found: list[Any] = []
    for path, module in net.named_modules():
        settings = {n: v for n, v in vars(module).items() if isinstance(v, int | float | str | tuple | list | Callable)}
        found.append((path, type(module), settings))
    for name, tensor in tensors_by_name(net).items():
        indices = tensor.tolist() if tensor.dim() and not tensor.is_floating_point() else None
        found.append((name, tensor.shape, tensor.dtype, indices))

    inputs = example.items() if isinstance(example, Mapping) else [("", example)]
    return [*found, *((name, value.shape, value.dtype) for name, value in inputs)]


def tensors_by_name(net: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers by name, tied ones under each of their names."""
    return {**dict(net.named_parameters(remove_duplicate=False)), **dict(net.named_buffers(remove_duplicate=False))}
