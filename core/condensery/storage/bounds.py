"""How large a net becomes is known before it is built: on ``meta``, where tensors have shapes and no numbers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from condensery.errors import ArtifactError, CondenseryError
from condensery.files import LIMIT, size_limit

TENSORS = 30_000
"""That a net may be made of; each takes a while, however small it is."""


T = TypeVar("T")


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
        """Play one operation; what makes a tensor of its arguments alone is sized before it does."""
        kwargs = kwargs or {}
        makes = "device" in kwargs and not any(isinstance(a, Tensor) for a in tree_leaves(args))
        if makes:
            self._add(func(*args, **{**kwargs, "device": torch.device("meta"), "pin_memory": None}))
        out = func(*args, **kwargs)
        if not makes and isinstance(out, Tensor) and out.is_meta and size_of(out) > self.limit:
            self._refuse(size_of(out))
        return out

    def _add(self, made: Tensor) -> None:
        self.bytes += size_of(made)
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


def bounded(build: Callable[[], T], where: str) -> T:
    """Build a net of an untrusted spec: first on ``meta``, so that one that is too large takes no memory at all.

    :param build: is called twice.
    :raises TooLarge: if it is larger than the limit.
    """
    # Some nets read numbers while they are built, which meta hasn't: what else is wrong with them shows below.
    counter = Bounded(where)
    with contextlib.suppress(Exception), torch.device("meta"), counter:
        build()
    if counter.refusal is not None:
        raise counter.refusal
    with Bounded(where):
        return build()


def in_words(error: Exception, where: str) -> CondenseryError:
    """Return what a damaged description made a builder or a codec raise, as one line."""
    if isinstance(error, CondenseryError):
        return error
    return ArtifactError(f"{where}: damaged: {type(error).__name__}: {' '.join(str(error).split())[:160]}")
