"""Precision: whether products are in bf16, and how images lie in memory."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterator
from typing import Self

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

    @contextlib.contextmanager
    def applied(self, device: torch.device) -> Iterator[None]:
        """Compute in this precision for a while."""
        with torch.autocast(device.type, torch.bfloat16) if self.autocast == "bf16" else contextlib.nullcontext():
            yield


AS_IT_IS = Precision()
