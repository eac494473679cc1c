"""Loading trained weights into a net, whole or not at all."""

from __future__ import annotations

import os
import re
from contextlib import nullcontext
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from condensery.contract import Registry
from condensery.errors import UsageError, nearest
from condensery.files import package_folder
from condensery.nets import build_net
from condensery.recipe import ModelSpec
from condensery.storage.artifact import open_artifact
from condensery.storage.artifact_file import MANIFEST
from condensery.storage.bounds import in_memory
from condensery.storage.checkpoint import attach_described, unfit
from condensery.storage.structure import restructure
from condensery.tasks import TaskFacts


def load_weights(model: nn.Module, source: str | Path, registry: Registry, key: str = "") -> None:
    """Copy a file into a net, whole; a prefix ``module.`` is dropped, ``num_batches_tracked`` may be absent.

    From an artifact the net also gets the shapes, layers and activation quantizers that it has there, so that what was
    compressed can be trained on.

    :param source: a safetensors file or an artifact: a path, whose environment variables are expanded, or
        ``package:path`` for a file that an installed package brings.
    :param key: of the net's model: an artifact of another one is refused.
    :raises UsageError: for a missing or damaged file, or naming the first tensor that doesn't fit.
    """
    path = weights_file(str(source))
    saved = {name.removeprefix("module."): value for name, value in _values(model, source, path, registry, key).items()}
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
        wrong = unfit(saved[name], value)
        if wrong:
            raise UsageError(f"weights {source}: {name!r} {wrong}")
    extra = sorted(set(saved) - set(mine))
    if extra:
        raise UsageError(f"weights {source}: the net has no tensor {extra[0]!r}")

    with torch.no_grad():
        for name, value in saved.items():
            mine[name].copy_(value)


def weights_file(source: str) -> Path:
    """Return the file that a source names.

    :raises UsageError: if it isn't there, or no safetensors file by its name.
    """
    path = _path(source)
    if path.suffix != ".safetensors":
        raise UsageError(f"weights {source}: only safetensors files are read, not {path.suffix or 'this'}")
    if not path.is_file():
        raise UsageError(f"weights {source}: no such file: {path}")
    return path


def _path(source: str) -> Path:
    """Return the path that a source names: in a package, or with environment variables in it."""
    # A single letter before the colon is a drive, not a package.
    package, colon, name = source.partition(":")
    if colon and all(part.isidentifier() for part in package.split(".")) and len(package) > 1:
        folder = package_folder(package)
        if folder is None:
            raise UsageError(f"weights {source}: the package {package} is not installed")
        return folder / name

    path = Path(os.path.expandvars(source)).expanduser()
    unset = re.search(r"\$\{?(\w+)", str(path))
    if unset:
        raise UsageError(f"weights {source}: the environment variable {unset.group(1)} is not set")
    return path


def _values(model: nn.Module, source: str | Path, path: Path, registry: Registry, key: str) -> dict[str, Tensor]:
    """Return what a safetensors file or an artifact holds, by name; the net is cut as an artifact's was."""
    try:
        with safe_open(path, framework="pt") as file:
            if MANIFEST not in file.keys():  # noqa: SIM118  (not a mapping)
                return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UsageError(f"weights {source}: damaged or not safetensors ({error})") from None

    # Opened whole, because that bounds what a stranger's shapes may take.
    found = open_artifact(path, registry)
    if key not in ("", found.model.key):
        raise UsageError(f"weights {source}: an artifact of {found.model.key}, not of {key}")
    restructure(model, found.manifest["structure"], registry, str(path))
    attach_described(model, found.manifest["transforms"], registry, str(path))
    return found.net.state_dict()


def build_with_weights(spec: ModelSpec, facts: TaskFacts, registry: Registry, seed: int) -> nn.Module:
    """Build a net and load the file of weights that its spec names, if it names one.

    :raises UsageError: for an unknown model, a setting that it doesn't have, or weights that don't fit.
    """
    # Published weights have the size that was published, and their loader makes tensors in ways of its own.
    with nullcontext() if spec.weights == "hub" else in_memory(f"model {spec.key!r}"):
        net = build_net(spec, facts, registry, seed)
    if spec.weights and spec.weights != "hub":
        load_weights(net, spec.weights, registry, spec.key)
    return net
