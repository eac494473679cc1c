"""Precision: whether products are in bf16, and how images lie in memory."""

from __future__ import annotations

import dataclasses
import functools
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Self

import torch


@functools.cache
def computes_bf16(kind: str) -> bool:
    """Tell whether a kind of device, ``cpu`` or ``cuda``, has instructions for products in bf16.

    Where it has none, torch computes them all the same, but slowly: on a CPU with AVX2 a convolution takes about eight
    times as long as in float32, a dense layer thirty times.
    """
    if kind == "cuda":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    if kind == "cpu":
        # Not every build of torch has this operation; one without it has no fast path either.
        asked = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
        return asked is not None and bool(asked())
    return False


@dataclasses.dataclass(frozen=True)
class Precision:
    """How a net computes.

    :param autocast: ``bf16``, or ``none``: as the net is.
    :param channels_last: how images lie in memory.
    """

    autocast: str = "none"
    channels_last: bool = False

    def on(self, device: torch.device) -> Self:
        """Return how that is done on a device: in float32 where bf16 has no instructions, which is no less exact."""
        return self if computes_bf16(device.type) else dataclasses.replace(self, autocast="none")

    def applied(self, device: torch.device) -> AbstractContextManager[Any]:
        """Return a context in which is computed so."""
        return torch.autocast(device.type, torch.bfloat16) if self.autocast == "bf16" else nullcontext()


AS_IT_IS = Precision()
