"""What ``copy.deepcopy`` makes of a net, in a third of the time: most of what modules hold is empty or a constant."""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any

from torch import nn
from torch.nn.modules.conv import _ConvNd

CONSTANTS = frozenset({int, float, bool, str, type(None)})
EMPTY = frozenset({dict, OrderedDict, set, list})
COPYING = ("__deepcopy__", "__reduce__", "__reduce_ex__", "__getstate__", "__setstate__")
"""What a class defines that wants to be copied in a way of its own."""


def deep_copied(module: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """Return a deep copy of a module.

    :param memo: as ``copy.deepcopy`` keeps it: by identity, what stands for an object in the copy.
    """
    if id(module) in memo:
        known: nn.Module = memo[id(module)]
        return known
    if not _is_plain(type(module)):
        return copy.deepcopy(module, memo)

    twin = memo[id(module)] = type(module).__new__(type(module))
    state = vars(twin)
    for name, value in vars(module).items():
        kind = type(value)
        if kind in CONSTANTS or (kind is tuple and CONSTANTS.issuperset(map(type, value))):
            state[name] = value
        elif kind in EMPTY and not value:
            state[name] = memo[id(value)] = kind()
        elif name in ("_modules", "_parameters", "_buffers") and kind is dict:
            state[name] = memo[id(value)] = {key: _copied(item, memo) for key, item in value.items()}
        else:
            state[name] = copy.deepcopy(value, memo)
    return twin


def _copied(item: Any, memo: dict[int, Any]) -> Any:
    return deep_copied(item, memo) if isinstance(item, nn.Module) else copy.deepcopy(item, memo)


def _is_plain(cls: type[nn.Module]) -> bool:
    """Tell whether modules of a class are copied by copying what they hold."""
    # A convolution's own way is for files of old versions: it adds what they lack.
    own = [name for name in COPYING if getattr(cls, name, None) is not getattr(nn.Module, name, None)]
    return not own or (own == ["__setstate__"] and cls.__setstate__ is _ConvNd.__setstate__)
