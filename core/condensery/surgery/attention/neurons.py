"""Neurons of MLPs: what there is, and what a cut of them leaves."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from torch import nn

from condensery.errors import UsageError
from condensery.surgery.attention.classes import KnownClasses
from condensery.surgery.attention.draft import Draft, kept
from condensery.surgery.attention.heads import checked
from condensery.surgery.attention.projections import inputs, join, outputs
from condensery.surgery.attention.rows import Mlp


@dataclasses.dataclass(frozen=True)
class Neurons:
    """The neurons of one MLP.

    :param neurons: how many there are.
    :param up: paths of the projections that make them, ``down`` of the one that reads them.
    :param reason: why none can be removed, or ``None``.
    """

    path: str
    neurons: int
    up: tuple[str, ...]
    down: str
    reason: str | None = None


def neurons_of(net: nn.Module, classes: KnownClasses) -> list[Neurons]:
    """Return the known MLPs of a net, in its order; ``reason`` tells which can't be cut."""
    return [_mlp(net, path, row) for path, m in net.named_modules() if (row := classes.row(m, Mlp)) is not None]


def _mlp(net: nn.Module, path: str, row: Mlp) -> Neurons:
    """Return one MLP.

    :raises UsageError: if its projections have other numbers of neurons than each other.
    """
    up, down = tuple(join(path, n) for n in row.up), join(path, row.down)
    reason = None
    if row.plain is not None and not _does_nothing(net, join(path, row.plain)):
        reason = f"{join(path, row.plain)} takes its statistics over the neurons"

    try:
        counts = {outputs(net, p) for p in up} | {inputs(net, down)}
    except UsageError as error:
        return Neurons(path, 0, up, down, str(error))
    if len(counts) > 1:
        raise UsageError(f"{path!r}: its projections have {' and '.join(map(str, sorted(counts)))} neurons")
    return Neurons(path, counts.pop(), up, down, reason)


def _does_nothing(net: nn.Module, path: str) -> bool:
    return type(net.get_submodule(path)) is nn.Identity


def draft_neurons(draft: Draft, removed: Mapping[str, Sequence[int]], classes: KnownClasses) -> int:
    """Draft the removal of neurons; returns how many go.

    :param removed: numbers of neurons, by path.
    :raises UsageError: if an MLP isn't known, can't lose neurons, or would lose all.
    """
    count = 0
    for path, indices in removed.items():
        row = classes.required(draft.net, path, Mlp)
        mlp = _mlp(draft.net, path, row)
        if mlp.reason is not None:
            raise UsageError(f"{path!r} can't lose neurons: {mlp.reason}")
        keep = kept(mlp.neurons, checked(path, "neurons", indices, mlp.neurons))

        for up in mlp.up:
            draft.rows(up, keep)
        if row.norm is not None and not _does_nothing(draft.net, join(path, row.norm)):
            draft.batch_norm(join(path, row.norm), keep)
        draft.columns(mlp.down, keep)
        if row.size is not None:
            draft.attribute(path, row.size, len(keep))
        count += mlp.neurons - len(keep)
    return count
