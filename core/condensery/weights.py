"""Loading trained weights into a net, whole or not at all."""

from __future__ import annotations

import os
import re
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from condensery.errors import UsageError, nearest


def load_weights(model: nn.Module, source: str | Path) -> None:
    """Copy a safetensors file into a net; a prefix ``module.`` is dropped, ``num_batches_tracked`` may be absent.

    :param source: a path; environment variables in it are expanded.
    :raises UsageError: for a missing or damaged file, or naming the first tensor that doesn't fit.
    """
    path = Path(os.path.expandvars(str(source))).expanduser()
    unset = re.search(r"\$\{?(\w+)", str(path))
    if unset:
        raise UsageError(f"weights {source}: the environment variable {unset.group(1)} is not set")
    if path.suffix != ".safetensors":
        raise UsageError(f"weights {source}: only safetensors files are read, not {path.suffix or 'this'}")
    if not path.is_file():
        raise UsageError(f"weights {source}: no such file: {path}")
    try:
        saved = {name.removeprefix("module."): value for name, value in load_file(path).items()}
    except (SafetensorError, OSError) as error:
        raise UsageError(f"weights {source}: damaged or not safetensors ({error})") from None
    mine = model.state_dict()
    for name, value in mine.items():
        if name not in saved:
            if name.endswith("num_batches_tracked"):
                continue
            near = nearest(name, saved)
            raise UsageError(f"weights {source}: no tensor {name!r}" + (f"; the file has {near!r}" if near else ""))
        if saved[name].shape != value.shape:
            shapes = f"{tuple(saved[name].shape)}, the net wants {tuple(value.shape)}"
            raise UsageError(f"weights {source}: {name!r} has shape {shapes}")
    extra = sorted(set(saved) - set(mine))
    if extra:
        raise UsageError(f"weights {source}: the net has no tensor {extra[0]!r}")
    with torch.no_grad():
        for name, value in saved.items():
            mine[name].copy_(value)
