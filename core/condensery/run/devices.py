"""Devices by name. Imports no torch before one is looked for: a wrong name is told at once."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from condensery.errors import UnknownKey, UsageError, short

if TYPE_CHECKING:
    import torch


def check_device(device: object) -> None:
    """Refuse a device that isn't one.

    :raises UsageError: naming the nearest one.
    """
    name = str(device)
    if name.lower().startswith("gpu"):
        raise UsageError(f"unknown device {short(device)}; did you mean 'cuda'?")
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", name):
        raise UnknownKey("device", name, ("auto", "cpu", "cuda", "cuda:0"))


def find_device(device: str | torch.device) -> torch.device:
    """Return the device of that name; ``auto`` is a GPU where there is one.

    :raises UsageError: for a name that is none, and for a GPU that isn't there.
    """
    import torch

    check_device(device)
    name = str(device)
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    there = torch.cuda.device_count() if name != "cpu" and torch.cuda.is_available() else 0
    if name != "cpu" and (torch.device(name).index or 0) >= there:
        least = "no CUDA device here; say --device cpu" if not there else f"{there} CUDA devices here, numbered from 0"
        raise UsageError(f"device {name!r}: {least}")
    return torch.device(name)
