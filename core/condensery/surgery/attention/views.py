"""How the heads of one attention module lie in its projections, checked against what the projections are."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from condensery.errors import UsageError
from condensery.surgery.attention.classes import KnownClasses
from condensery.surgery.attention.projections import inputs, outputs
from condensery.surgery.attention.rows import Attention, Place, View


def view_of(net: nn.Module, path: str, classes: KnownClasses) -> View:
    """Return the view of one attention module.

    :raises UsageError: if there is none, its class isn't known, or its projections have other sizes than its
        attributes say.
    """
    view = classes.required(net, path, Attention).view(Place(net, path))
    _check(net, view)
    return view


def _check(net: nn.Module, view: View) -> None:
    """Hold the tables to the projections: each output, and each input behind the heads, belongs to one head."""
    sizes = view.sizes

    tables: dict[str, list[Tensor]] = {}
    for part in (*view.q, *view.k, *view.v):
        tables.setdefault(part.module, []).append(part.table.flatten())
    for module, found in tables.items():
        rows = outputs(net, module)
        if sorted(torch.cat(found).tolist()) != list(range(rows)):
            raise UsageError(
                f"{module!r} has {rows} outputs, which {sizes.heads} heads of {sizes.dims} don't share as they should"
            )

    columns = inputs(net, view.out.module)
    if view.out.table.numel() != columns or sizes.heads % sizes.kv_heads:
        raise UsageError(f"{view.out.module!r} has {columns} inputs, not {sizes.heads} heads of {sizes.value_dims}")

    for name, axis in view.per_head:
        path, _, tensor = name.rpartition(".")
        size = getattr(net.get_submodule(path), tensor).shape[axis]
        if size != sizes.heads:
            raise UsageError(f"{name!r} has {size} entries, not one for each of {sizes.heads} heads")
