"""Whole heads and head dimensions: what there is, and what a cut of them leaves."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from condensery.errors import UsageError
from condensery.surgery.attention.draft import Draft, class_of, join, kept, known_classes
from condensery.surgery.attention.views import ADAPTERS, View, view_of

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


def heads_of(net: nn.Module) -> list[Heads]:
    """Return the attention modules of a net, in its order; ``reason`` tells which can't be cut.

    A module counts as attention if its class is known, or if its class is called so and holds layers.
    """
    found = []
    for path, module in net.named_modules():
        if class_of(module) in ADAPTERS:
            try:
                view = view_of(net, path)
            except UsageError as error:
                found.append(Heads(path, reason=str(error), dims_reason=str(error)))
            else:
                found.append(Heads(path, *view.sizes, view.blocked, view.blocked or view.dims_blocked))
        elif _is_unknown(module):
            why = f"it is a {class_of(module)}; {known_classes(ADAPTERS, 'attention')}"
            found.append(Heads(path, reason=why, dims_reason=why))
    return found


def _is_unknown(module: nn.Module) -> bool:
    """Tell whether a module is named like an attention, holds weights, and no other attention."""
    inner = [m for m in module.modules() if m is not module]
    return (
        _named_so(module)
        and any(p.dim() > 1 for p in module.parameters())
        and not any(class_of(m) in ADAPTERS or (_named_so(m) and any(True for _ in m.parameters())) for m in inner)
    )


def _named_so(module: nn.Module) -> bool:
    return re.search("Attention|Attn", class_of(module).rpartition(".")[2]) is not None


# ------------------------------------------------------------------ cutting


def draft_heads(draft: Draft, removed: Mapping[str, Sequence[int]]) -> int:
    """Draft the removal of whole heads; returns how many go.

    :param removed: numbers of (query) heads, by path.
    :raises UsageError: if a module can't lose heads, would lose all, or groups of queries would differ in size.
    """
    count = 0
    for path, indices in removed.items():
        view = view_of(draft.net, path)
        heads, kv_heads, *_ = view.sizes
        if view.blocked is not None:
            raise UsageError(f"{path!r} can't lose heads: {view.blocked}")
        gone = checked(path, "heads", indices, heads)
        size = heads // kv_heads
        left = [sum(h not in gone for h in range(g * size, (g + 1) * size)) for g in range(kv_heads)]
        if len(set(left) - {0}) > 1:
            raise UsageError(
                f"{path!r}: {size} query heads in turn share keys and values; from each such group must go all or as "
                f"many as from the others, and {left} would be left"
            )
        groups = torch.tensor([g for g in range(kv_heads) if left[g]])
        _select(draft, view, kept(heads, gone), groups, *_all_dims(view))
        count += len(gone)
    return count


def draft_head_dims(draft: Draft, removed: Mapping[str, HeadDims | Sequence[int]]) -> int:
    """Draft the removal of head dimensions; returns how many go, queries and keys counted once.

    :param removed: by path; plain numbers go from queries, keys and values of every head.
    :raises UsageError: if a module can't lose head dimensions, or its heads would differ in size.
    """
    count = 0
    ropes: dict[str, dict[str, Tensor]] = {}
    for path, what in removed.items():
        view = view_of(draft.net, path)
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
        if view.rope is not None:
            ropes.setdefault(view.rope, {})[path] = qk
        _select(draft, view, torch.arange(heads), torch.arange(kv_heads), qk, v)
        count += kv_heads * (dims - qk.shape[1] + value_dims - v.shape[1])
    for rope, sets in ropes.items():
        _turn_fewer(draft, rope, sets)
    return count


def _turn_fewer(draft: Draft, rope: str, sets: Mapping[str, Tensor]) -> None:
    """Cut a rotary table, which all heads of all layers share."""
    sharing = [h.path for h in heads_of(draft.net) if h.reason is None and view_of(draft.net, h.path).rope == rope]
    missing = [p for p in sharing if p not in sets]
    first = next(iter(sets.values()))[0]
    if missing or any(not bool((s == first).all()) for s in sets.values()):
        raise UsageError(
            f"queries and keys share the rotary table {rope!r}: the same dimensions must go from all heads of all of "
            f"{', '.join(sharing)}"
        )
    half = draft.net.get_submodule(rope).inv_freq.numel()  # type: ignore[operator]
    pairs = first[first < half]
    if not torch.equal(first, torch.cat([pairs, pairs + half])):
        raise UsageError(f"dimension i turns together with i + {half}: both must go, or none")
    for name in ("inv_freq", "original_inv_freq"):
        draft.entries(join(rope, name), 0, pairs)


def _all_dims(view: View) -> tuple[Tensor, Tensor]:
    _, kv_heads, dims, value_dims = view.sizes
    return torch.arange(dims).expand(kv_heads, -1), torch.arange(value_dims).expand(kv_heads, -1)


def _kept_dims(path: str, what: str, gone: Dims, heads: int, dims: int) -> Tensor:
    """Return the dimensions that stay, int64 of shape ``(heads, left)``."""
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

    :raises UsageError: naming the path.
    """
    gone = {int(i) for i in indices}
    wrong = sorted(i for i in gone if not 0 <= i < count)
    if wrong:
        raise UsageError(f"{path!r} has {what} 0 to {count - 1}, not {wrong[0]}")
    if len(gone) == count:
        raise UsageError(f"{path!r} would lose all of its {count} {what}")
    return gone


def _select(draft: Draft, view: View, heads: Tensor, groups: Tensor, qk: Tensor, v: Tensor) -> None:
    """Keep some heads and dimensions; each projection keeps the ascending union, so any layout stays what it is.

    :param heads: query heads, ``groups`` heads of keys and values.
    :param qk: dimensions by head of keys and values ``(kv_heads, left)``; ``v`` likewise.
    """
    old = view.sizes
    group = heads // (old.heads // old.kv_heads)
    rows: dict[str, list[Tensor]] = {}
    for parts, which, dims in ((view.q, heads, qk[group]), (view.k, groups, qk[groups]), (view.v, groups, v[groups])):
        for part in parts:
            rows.setdefault(part.module, []).append(part.table[which].gather(1, dims).flatten())
    fold = qk.shape[1] != old.dims and view.scale != "given"
    queries = torch.cat([p.table.flatten() for p in view.q])
    for module, found in rows.items():
        keep = torch.cat(found).sort().values
        factor = None
        if fold and any(p.module == module for p in view.q):
            # The scores will be divided by the root of the new size; this keeps them what they were.
            factor = torch.ones(len(keep), dtype=torch.float64)
            factor[torch.isin(keep, queries)] = (qk.shape[1] / old.dims) ** 0.5
        draft.rows(module, keep, factor)
    draft.columns(view.out.module, view.out.table[heads].gather(1, v[group]).flatten().sort().values)
    for name, axis in view.per_head:
        draft.entries(name, axis, heads)
    new = type(old)(len(heads), len(groups), qk.shape[1], v.shape[1])
    for name, value in view.attributes(new).items():
        draft.attribute(view.path, name, value)
    for name in view.forgets:
        draft.forget(view.path, name)
