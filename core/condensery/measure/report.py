"""Where a figure was measured: versions, machine, threads."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

PACKAGES = ("condensery", "torch", "timm", "transformers", "pluggy", "safetensors")
FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide a figure."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def environment() -> dict[str, Any]:
    """Return processor, its flags that matter for speed, threads, and the GPU if there is one."""
    import torch

    model, flags = platform.processor(), []
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                model = value.strip()
            if name.strip() == "flags":
                flags = [f for f in FLAGS if f in value.split()]
                break
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"cpu": model, "flags": flags, "cores": os.cpu_count(), "threads": torch.get_num_threads(), "gpu": gpu}


def origin(device: str) -> dict[str, str]:
    """Return what the last bits of a result depend on beside its recipe: versions, processor, threads, device."""
    here = environment()
    named = ("cpu", "threads") if device == "cpu" else ("cpu", "threads", "gpu")
    # Processors of one name may differ in their instructions, and so in the last bits of what they compute.
    here["cpu"] = " ".join([here["cpu"], *here["flags"]])
    return {**versions(), "device": device, **{name: str(here[name]) for name in named}}
