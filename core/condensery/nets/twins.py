"""What ``copy.deepcopy`` makes of a net, in a third of the time: most of what modules hold is empty or a constant."""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any

from torch import nn
from torch.nn.modules.conv import _ConvNd

from condensery.errors import CondenseryError, UsageError, in_line

CONSTANTS = frozenset({int, float, bool, str, type(None)})
EMPTY = frozenset({dict, OrderedDict, set, list})
COPYING = ("__deepcopy__", "__reduce__", "__reduce_ex__", "__getstate__", "__setstate__")
"""What a class defines that wants to be copied in a way of its own."""

COMPILED = "_compiled_call_impl"
"""What ``net.compile()`` leaves: a copy that had it would call the original."""


def deep_copied(module: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """Return a deep copy of a module.

    :param memo: as ``copy.deepcopy`` keeps it: by identity, what stands for an object in the copy.
    :raises UsageError: naming what can't be copied.
    """
    if id(module) in memo:
        known: nn.Module = memo[id(module)]
        return known
    if not _is_plain(type(module)):
        own: nn.Module = _own_copy(module, memo, f"the net's {type(module).__name__}")
        return own

    twin = memo[id(module)] = type(module).__new__(type(module))
    state = vars(twin)
    for name, value in vars(module).items():
        kind = type(value)
        if name == COMPILED:
            continue
        if kind in CONSTANTS or (kind is tuple and CONSTANTS.issuperset(map(type, value))):
            state[name] = value
        elif kind in EMPTY and not value:
            state[name] = memo[id(value)] = kind()
        elif name in ("_modules", "_parameters", "_buffers") and kind is dict:
            state[name] = memo[id(value)] = {key: _copied(item, memo, module, key) for key, item in value.items()}
        else:
            state[name] = _copied(value, memo, module, name)
    return twin


def _copied(item: Any, memo: dict[int, Any], owner: nn.Module, name: str) -> Any:
    if isinstance(item, nn.Module):
        return deep_copied(item, memo)
    return _own_copy(item, memo, f"attribute {name!r} of the net's {type(owner).__name__}")


def _own_copy(item: Any, memo: dict[int, Any], what: str) -> Any:
    """Return what something's own way of being copied makes of it.

    :param what: it is, for the message.
    """
    try:
        return copy.deepcopy(item, memo)
    except CondenseryError:
        raise
    except Exception as error:  # a lock, a file, a tensor that was computed: each fails in a way of its own
        why = f"{type(error).__name__}: {in_line(error)}"
        raise UsageError(f"{what} can't be copied, and only a copy of a net is changed ({why})") from error


def _is_plain(cls: type[nn.Module]) -> bool:
    """Tell whether modules of a class are copied by copying what they hold."""
    # A convolution's own way is for files of old versions: it adds what they lack.
    own = [name for name in COPYING if getattr(cls, name, None) is not getattr(nn.Module, name, None)]
    return not own or (own == ["__setstate__"] and cls.__setstate__ is _ConvNd.__setstate__)
