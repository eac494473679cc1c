"""Modules by their paths, and the plain layers whose rows and columns can be cut."""

from __future__ import annotations

from typing import NamedTuple

from torch import nn
from torch.nn.utils import parametrize

from condensery.errors import UsageError


class Layout(NamedTuple):
    """Where a projection keeps its outputs and inputs.

    :param out_axis: axis of the weight along which the outputs lie; ``in_axis`` that of the inputs.
    :param outs: name of the attribute that counts the outputs; ``ins`` of the one that counts the inputs.
    """

    out_axis: int
    in_axis: int
    outs: str
    ins: str


PROJECTIONS = {
    "torch.nn.modules.linear.Linear": Layout(0, 1, "out_features", "in_features"),
    "torch.nn.modules.conv.Conv2d": Layout(0, 1, "out_channels", "in_channels"),
    "transformers.pytorch_utils.Conv1D": Layout(1, 0, "nf", "nx"),
}
"""The layers that attention nets project with, by the exact class."""


def class_of(module: nn.Module) -> str:
    """Return the qualified name of a module's class, transforms left aside."""
    cls = parametrize.type_before_parametrizations(module)
    return f"{cls.__module__}.{cls.__qualname__}"


def join(path: str, name: str) -> str:
    """Put a name behind a path; each ``../`` in front of the name goes up one module."""
    while name.startswith("../"):
        path, name = path.rpartition(".")[0], name[3:]
    return f"{path}.{name}" if path else name


def find(net: nn.Module, path: str) -> nn.Module | None:
    """Return a submodule, or ``None``."""
    try:
        return net.get_submodule(path)
    except AttributeError:
        return None


def layout(net: nn.Module, path: str) -> tuple[nn.Module, Layout]:
    """Return a projection and its layout.

    :raises UsageError: if there is none, or it isn't exactly a plain one: a wrapped or quantized layer keeps its
        numbers elsewhere.
    """
    module = find(net, path)
    if module is None:
        raise UsageError(f"the net has no layer {path!r}")

    found = PROJECTIONS.get(class_of(module))
    if found is None or getattr(module, "groups", 1) != 1:
        known = ", ".join(n.rpartition(".")[2] for n in PROJECTIONS)
        raise UsageError(f"layer {path!r} is a {class_of(module)}; only a plain {known} can be cut")
    return module, found


def outputs(net: nn.Module, path: str) -> int:
    """Return how many outputs a projection has."""
    module, where = layout(net, path)
    return int(getattr(module, where.outs))


def inputs(net: nn.Module, path: str) -> int:
    """Return how many inputs a projection has."""
    module, where = layout(net, path)
    return int(getattr(module, where.ins))
