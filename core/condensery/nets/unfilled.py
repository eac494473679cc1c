"""Nets whose weights are left as they lie in memory: only to be looked at, or to be written over."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

VIEWS = frozenset(
    {"__get__", "__getitem__", "detach", "view", "view_as", "reshape", "flatten", "requires_grad_"}
    | {"is_contiguous", "is_floating_point", "is_complex"}
)
"""What gives a parameter's own memory again, or asks how it lies there and not what numbers it holds."""
DRAWS = ("normal", "uniform", "rand", "bernoulli", "multinomial", "exponential")
"""Beginnings of the names of functions that draw."""


class Unfilled(TorchFunctionMode):
    """While a net is built: whatever would write into a parameter as a whole does nothing.

    Memory that nobody writes to is not taken, and drawing is most of the time that a build takes. Buffers are filled as
    ever, because some are in no file: tables of positions and the like. So the net is of no use where these depend on
    what was left out: ``whole`` is false if something read a parameter, or drew for anything but one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.whole = True

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call a function of torch, or leave it out."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        first = next(iter((*args, *kwargs.values())), None)
        on_parameter = isinstance(first, nn.Parameter)
        writes = name.endswith("_") and not name.startswith("__")
        if on_parameter and writes and name not in VIEWS:
            return first

        result = func(*args, **kwargs)
        reads = on_parameter and name not in VIEWS and isinstance(result, Tensor | float | bool | list)
        if reads or name.startswith(DRAWS):
            self.whole = False
        return result
