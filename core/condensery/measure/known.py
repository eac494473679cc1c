"""Quality of trained nets that was measured before: the arms and seeds of one reproduction start from the same net."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from condensery.files import cache_dir, cached_json, write_json
from condensery.measure.measuring import AS_IT_IS, Precision, evaluate
from condensery.measure.report import versions
from condensery.recipe import fingerprint
from condensery.tasks import Task


def known_quality(
    task: Task, net: nn.Module, spec: Mapping[str, Any], device: torch.device, precision: Precision = AS_IT_IS
) -> dict[str, float]:
    """Return the task's metrics over the test split, from the cache where this very net was evaluated before.

    :param spec: says how the net is built; its values are told by their bytes.
    """
    identity = {
        "task": task.describe(),
        "spec": dict(spec),
        "values": digest(net),
        "device": device.type,
        "precision": dataclasses.asdict(precision),
        "versions": versions(),
    }

    path = cache_dir() / "quality" / f"{fingerprint(identity)}.json"
    found: dict[str, float] | None = cached_json(path)
    if found is None:
        found = evaluate(task, net, device, precision=precision)
        if all(map(math.isfinite, found.values())):  # what isn't finite is no quality, and the run will say so
            write_json(path, found)
    return found


def digest(net: nn.Module) -> str:
    """Return a hash of the names, types, shapes and bytes of all that a net's state holds."""
    found = hashlib.sha256()
    for name, value in net.state_dict().items():
        if isinstance(value, torch.Tensor):
            found.update(f"{name} {value.dtype} {tuple(value.shape)} ".encode())
            flat = value.detach().cpu().contiguous().flatten()
            found.update(flat.view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
