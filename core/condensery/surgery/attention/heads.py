"""Whole heads and head dimensions: what there is, and what a cut of them leaves."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from condensery.errors import UsageError
from condensery.surgery.attention.classes import KnownClasses
from condensery.surgery.attention.draft import Draft, kept
from condensery.surgery.attention.projections import class_of
from condensery.surgery.attention.rows import Attention, Sizes, View
from condensery.surgery.attention.views import view_of

Dims = Sequence[int] | Sequence[Sequence[int]]


@dataclasses.dataclass(frozen=True)
class Heads:
    """The heads of one attention module.

    :param kv_heads: heads of keys and values; fewer where queries share them in groups.
    :param dims: dimensions of queries and keys in each head; ``value_dims`` of values.
    :param reason: why no head can be removed, or ``None``; ``dims_reason`` why no head dimension can.
    """

    path: str
    heads: int = 0
    kv_heads: int = 0
    dims: int = 0
    value_dims: int = 0
    reason: str | None = None
    dims_reason: str | None = None


@dataclasses.dataclass(frozen=True)
class HeadDims:
    """Dimensions to remove from the heads of one attention module.

    Either list holds dimensions that go from every head, or one list for each head (of keys and values, where queries
    share them in groups); each head must lose as many.

    :param qk: of queries and keys.
    :param v: of values.
    """

    qk: Dims = ()
    v: Dims = ()


def heads_of(net: nn.Module, classes: KnownClasses) -> list[Heads]:
    """Return the attention modules of a net, in its order; ``reason`` tells which can't be cut.

    A module counts as attention if its class is known, or if its class is called so and holds layers.
    """
    found = []
    for path, module in net.named_modules():
        if classes.row(module, Attention) is not None:
            try:
                view = view_of(net, path, classes)
            except UsageError as error:
                found.append(Heads(path, reason=str(error), dims_reason=str(error)))
            else:
                found.append(Heads(path, *view.sizes, view.blocked, view.blocked or view.dims_blocked))
        elif _is_unknown(module, classes):
            why = f"it is a {class_of(module)}; {classes.named(Attention)}"
            found.append(Heads(path, reason=why, dims_reason=why))
    return found


def _is_unknown(module: nn.Module, classes: KnownClasses) -> bool:
    """Tell whether a module is named like an attention, holds weights, and no other attention."""
    if not _named_so(module) or all(p.dim() < 2 for p in module.parameters()):
        return False

    inner = [m for m in module.modules() if m is not module]
    known = any(classes.row(m, Attention) is not None for m in inner)
    return not known and not any(_named_so(m) and any(True for _ in m.parameters()) for m in inner)


def _named_so(module: nn.Module) -> bool:
    """Tell whether a module's class is called an attention."""
    return re.search("Attention|Attn", class_of(module).rpartition(".")[2]) is not None


# ------------------------------------------------------------------ cutting


def draft_heads(draft: Draft, removed: Mapping[str, Sequence[int]], classes: KnownClasses) -> int:
    """Draft the removal of whole heads; returns how many go.

    :param removed: numbers of (query) heads, by path.
    :raises UsageError: if a module can't lose heads, would lose all, or groups of queries would differ in size.
    """
    count = 0
    for path, indices in removed.items():
        view = view_of(draft.net, path, classes)
        heads, kv_heads, dims, value_dims = view.sizes
        if view.blocked is not None:
            raise UsageError(f"{path!r} can't lose heads: {view.blocked}")
        gone = checked(path, "heads", indices, heads)

        # Keys and values go where no query head of their group is left.
        size = heads // kv_heads
        left = [sum(h not in gone for h in range(g * size, (g + 1) * size)) for g in range(kv_heads)]
        if len(set(left) - {0}) > 1:
            raise UsageError(
                f"{path!r}: {size} query heads in turn share keys and values; from each such group must go all or as "
                f"many as from the others, and {left} would be left"
            )
        groups = torch.tensor([g for g in range(kv_heads) if left[g]])

        every_qk = torch.arange(dims).expand(kv_heads, -1)
        every_v = torch.arange(value_dims).expand(kv_heads, -1)
        _keep(draft, path, view, kept(heads, gone), groups, every_qk, every_v)
        count += len(gone)
    return count


def draft_head_dims(draft: Draft, removed: Mapping[str, HeadDims | Sequence[int]], classes: KnownClasses) -> int:
    """Draft the removal of head dimensions; returns how many go, queries and keys counted once.

    :param removed: by path; plain numbers go from queries, keys and values of every head.
    :raises UsageError: if a module can't lose head dimensions, or its heads would differ in size.
    """
    count = 0
    ropes: dict[tuple[str, ...], dict[str, Tensor]] = {}
    for path, what in removed.items():
        view = view_of(draft.net, path, classes)
        heads, kv_heads, dims, value_dims = view.sizes
        reason = view.blocked or view.dims_blocked
        if reason is not None:
            raise UsageError(f"{path!r} can't lose head dimensions: {reason}")

        given = what if isinstance(what, HeadDims) else HeadDims(what, what)
        qk = _kept_dims(path, "dimensions of queries and keys", given.qk, kv_heads, dims)
        v = _kept_dims(path, "dimensions of values", given.v, kv_heads, value_dims)
        if view.tied and qk.shape[1] != v.shape[1]:
            raise UsageError(
                f"{path!r} has one size for queries, keys and values: {qk.shape[1]} and {v.shape[1]} would be left"
            )

        if view.rope:
            ropes.setdefault(view.rope, {})[path] = qk
        _keep(draft, path, view, torch.arange(heads), torch.arange(kv_heads), qk, v)
        count += kv_heads * (dims - qk.shape[1] + value_dims - v.shape[1])

    for rope, sets in ropes.items():
        _turn_fewer(draft, rope, sets, classes)
    return count


def _turn_fewer(draft: Draft, rope: tuple[str, ...], sets: Mapping[str, Tensor], classes: KnownClasses) -> None:
    """Cut rotary tables, which all heads of all modules that name them share.

    :param sets: dimensions of queries and keys that stay, int64 ``(kv_heads, left)``, by path of the module.
    """
    usable = [h.path for h in heads_of(draft.net, classes) if h.reason is None]
    sharing = [path for path in usable if view_of(draft.net, path, classes).rope == rope]
    first = next(iter(sets.values()))[0]
    if any(path not in sets for path in sharing) or any(not bool((s == first).all()) for s in sets.values()):
        raise UsageError(
            f"queries and keys share the rotary table {rope[0]!r}: the same dimensions must go from all heads of all "
            f"of {', '.join(sharing)}"
        )

    half = draft.net.get_buffer(rope[0]).numel()
    pairs = first[first < half]
    if not torch.equal(first, torch.cat([pairs, pairs + half])):
        raise UsageError(f"dimension i turns together with i + {half}: both must go, or none")
    for name in rope:
        draft.entries(name, 0, pairs)


def _kept_dims(path: str, what: str, gone: Dims, heads: int, dims: int) -> Tensor:
    """Return the dimensions that stay, int64 ``(heads, left)``.

    :param what: is removed, in words.
    """
    lists = [list(g) for g in gone if isinstance(g, Sequence)]
    if not lists:
        lists = [[int(g) for g in gone if not isinstance(g, Sequence)]] * heads
    if len(lists) != heads:
        raise UsageError(f"{path!r}: {len(lists)} lists of {what}, for {heads} heads")

    sets = [checked(path, what, indices, dims) for indices in lists]
    if len({len(gone) for gone in sets}) > 1:
        raise UsageError(f"{path!r}: each head must lose as many {what}")
    return torch.stack([kept(dims, gone) for gone in sets])


def checked(path: str, what: str, indices: Sequence[int], count: int) -> set[int]:
    """Return numbers of units that exist, and not all of them.

    :param what: the units are, in words.
    :raises UsageError: naming the path.
    """
    gone = {int(i) for i in indices}
    wrong = sorted(i for i in gone if not 0 <= i < count)
    if wrong:
        raise UsageError(f"{path!r} has {what} 0 to {count - 1}, not {wrong[0]}")
    if len(gone) == count:
        raise UsageError(f"{path!r} would lose all of its {count} {what}")
    return gone


def _keep(draft: Draft, path: str, view: View, heads: Tensor, groups: Tensor, qk: Tensor, v: Tensor) -> None:
    """Keep some heads and some dimensions of each.

    :param heads: query heads that stay, int64 ``(heads left,)``; ``groups``: heads of keys and values.
    :param qk: dimensions of queries and keys that stay in each head of keys and values, int64 ``(kv_heads, left)``;
        ``v``: those of values.
    """
    old = view.sizes
    new = Sizes(len(heads), len(groups), qk.shape[1], v.shape[1])
    group = heads // (old.heads // old.kv_heads)

    # A module may hold several parts: it keeps the ascending union of them, so that any layout stays what it is.
    rows: dict[str, list[Tensor]] = {}
    for parts, which, dims in ((view.q, heads, qk[group]), (view.k, groups, qk[groups]), (view.v, groups, v[groups])):
        for part in parts:
            rows.setdefault(part.module, []).append(part.slots(which, dims))
    for module, found in rows.items():
        keep = torch.cat(found).sort().values
        draft.rows(module, keep, _factor(view, module, keep, new))
    draft.columns(view.out.module, view.out.slots(heads, v[group]).sort().values)

    for name, axis in view.per_head:
        draft.entries(name, axis, heads)
    for name, value in view.attributes(new).items():
        draft.attribute(path, name, value)
    if view.scale_attribute is not None and new.dims != old.dims:
        draft.attribute(path, view.scale_attribute, new.dims**-0.5)
    for name in view.forgets:
        draft.forget(path, name)


def _factor(view: View, module: str, keep: Tensor, new: Sizes) -> Tensor | None:
    """Return what the outputs of one projection are multiplied with, float64 ``(left,)``; ``None`` where with 1.

    The scores will be divided by the root of the new head size; with the factor on queries they stay what they were.

    :param keep: outputs that stay, int64 ``(left,)``.
    """
    queries = [part.table.flatten() for part in view.q if part.module == module]
    if view.scale == "given" or new.dims == view.sizes.dims or not queries:
        return None
    factor = torch.ones(len(keep), dtype=torch.float64)
    factor[torch.isin(keep, torch.cat(queries))] = (new.dims / view.sizes.dims) ** 0.5
    return factor
