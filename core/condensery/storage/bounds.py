"""How large a net becomes is known before it is: what would make a tensor is asked on ``meta`` first, for its size."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from condensery.errors import ArtifactError, CondenseryError, UsageError
from condensery.files import LIMIT, size_limit
from condensery.nets import TENSORS

META = torch.device("meta")
CAST = torch.ops.aten._to_copy.default
"""The operation that puts a net into another type: it makes each of its tensors anew."""
_aten = torch.ops.aten
NO_LARGER = frozenset(
    {_aten.detach.default, _aten.copy_.default, _aten.zero_.default, _aten.fill_.Scalar, _aten.relu_.default}
    | {_aten.set_.source_Storage, _aten.native_batch_norm.default}
)
"""Operations whose results are never larger than what they are given: most of a build, and dear to ask on ``meta``."""


class Bounded(TorchDispatchMode):
    """Stops a net that is being built before its tensors fill more than :func:`condensery.files.size_limit`.

    :param where: for messages.
    """

    def __init__(self, where: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.where, self.limit = where, size_limit()
        self.bytes = self.tensors = 0
        self.refusal: TooLarge | None = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Play one operation, once it is known how large its result is."""
        kwargs = kwargs or {}
        if func in NO_LARGER:
            return func(*args, **kwargs)
        of_others = any(isinstance(a, Tensor) for a in tree_leaves((args, kwargs)))
        makes = func is CAST or ("device" in kwargs and not of_others)
        asked = {**kwargs, "device": META, "pin_memory": None} if makes else kwargs
        sizes = [size_of(made) for made in tree_leaves(_on_meta(func, args, asked)) if isinstance(made, Tensor)]
        if makes:
            self._add(sum(sizes))
        elif max(sizes, default=0) > self.limit:  # sized alone: it may be a view, or gone when the net is there
            self._refuse(max(sizes))
        return func(*args, **kwargs)

    def _add(self, size: int) -> None:
        self.bytes += size
        self.tensors += 1
        if self.bytes > self.limit:
            self._refuse(self.bytes)
        if self.tensors > TENSORS:
            self._stop(f"has more than {TENSORS:,} tensors")

    def _refuse(self, size: int) -> None:
        million = -(-size // 1_000_000)
        over = f"over the limit of {self.limit // 1_000_000:,}"
        self._stop(f"needs {million:,} MB or more, {over}; if you trust it, set {LIMIT}={million} or higher")

    def _stop(self, why: str) -> NoReturn:
        """Refuse the net; kept, because a builder may turn what is raised into a refusal of its own."""
        self.refusal = TooLarge(f"{self.where}: refused: its net {why}")
        raise self.refusal


class TooLarge(ArtifactError):
    """A net is larger than the limit."""


def size_of(value: Tensor) -> int:
    """Return the bytes of a tensor."""
    return value.numel() * value.element_size()


def _on_meta(func: Any, args: Any, kwargs: Any) -> Any:
    """Return what an operation gives on ``meta``, or ``None`` where its size depends on numbers."""
    args, kwargs = tree_map(lambda leaf: leaf.to(META) if isinstance(leaf, Tensor) else leaf, (args, kwargs))
    try:
        return func(*args, **kwargs)
    except (NotImplementedError, RuntimeError):
        return None  # what is wrong with it otherwise shows when it is played


@contextlib.contextmanager
def bounded(where: str) -> Iterator[None]:
    """While a net of an untrusted spec is built: refuse one that is too large before it takes the memory.

    :raises TooLarge: if it is larger than the limit, whatever its builder made of that.
    """
    counter = Bounded(where)
    try:
        with counter:
            yield
    finally:
        if counter.refusal is not None:
            raise counter.refusal


@contextlib.contextmanager
def in_memory(where: str) -> Iterator[None]:
    """While a net of one's own is built: refuse one that fills more than half of the machine's memory.

    There would be no room for its gradients, and a system that promises more memory than it has ends the process
    without a word. Parameters and buffers are counted as modules get them, before they are filled: that costs next to
    nothing, and what a builder makes besides is trusted.

    :param where: for messages.
    :raises UsageError: naming how much it needs, or that it has more than :data:`TENSORS` tensors.
    """
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    tensors = size = 0

    def count(module: nn.Module, name: str, value: Tensor | None) -> None:
        nonlocal tensors, size
        tensors, size = tensors + 1, size + (0 if value is None else size_of(value))
        if size > memory // 2:
            needs = f"needs {-(-size // 1_000_000):,} MB or more"
            raise UsageError(f"{where}: {needs}, more than half of this machine's {memory // 1_000_000:,}")
        if tensors > TENSORS:
            raise UsageError(f"{where}: has more than {TENSORS:,} tensors")

    hooks = [register_module_parameter_registration_hook(count), register_module_buffer_registration_hook(count)]
    try:
        yield
    except RuntimeError as error:
        if "allocate memory" not in str(error):
            raise
        raise UsageError(f"{where}: a tensor of it needs more memory than this machine has") from None
    finally:
        for hook in hooks:
            hook.remove()


def in_words(error: Exception, where: str) -> CondenseryError:
    """Return what a damaged description made a builder or a codec raise, as one line."""
    if isinstance(error, CondenseryError):
        return error
    return ArtifactError(f"{where}: damaged: {type(error).__name__}: {' '.join(str(error).split())[:160]}")
