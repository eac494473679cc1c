from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from condensery import Method, NotApplicable, Stage, hookimpl
from condensery.surgery.attention import HeadDims, Heads, UnitRemoval, View
from condensery_plugins.pruning.refusals import refuse_nothing
from condensery_plugins.pruning.units import Criterion, Scorer, lowest


@dataclass(eq=False, kw_only=True)
class StructuredMagnitude(Method):
    """Cut the heads, head dimensions, MLP neurons or layers with the smallest weights out of an attention net.

    The survey's structured pruning (1.2.1), and its granularities head and layer, on nets with attention; no paper of
    its own. ``ratio`` is the share of the net's units of that kind, ranked together (``global``) or within each module
    (``local``); each module keeps one. Where queries share keys and values in groups, a group goes as one head. Head
    dimensions: every head loses the same share, whatever the scope, rotary ones in pairs that are the same in the
    whole net.

    When: as the stage starts, at once; each cut is proven first.

    Raises NotApplicable on a net without such units.
    """

    key = "structured-magnitude"

    removes = frozenset({"dense-shape"})

    granularity: Literal["head", "head-dim", "neuron", "layer"] = "head"
    ratio: float = 0.3
    scope: Literal["global", "local"] = "global"
    criterion: Criterion = "l1"

    @hookimpl
    def prepare(self, stage: Stage) -> None:
        """Cut before the optimizer exists."""
        surgeon = stage.surgeon
        scorer = Scorer(surgeon.net, self.criterion, torch.Generator().manual_seed(stage.seed))
        cut = {"head": self._heads, "head-dim": self._head_dims, "neuron": self._neurons, "layer": self._layers}

        before = sum(p.numel() for p in surgeon.net.parameters())
        removal = cut[self.granularity](stage, scorer)

        self.removed_ = removal.ratio
        self.parameters_ = 1 - sum(p.numel() for p in surgeon.net.parameters()) / before
        self.difference_ = 0.0 if removal.cut is None else float(removal.cut.difference or 0.0)

    def _heads(self, stage: Stage, scorer: Scorer) -> UnitRemoval:
        items = {h.path: h for h in stage.surgeon.heads()}
        self._need("attention", [h.reason for h in items.values()])
        usable = {p: h for p, h in items.items() if h.reason is None}
        chosen = self._lowest(stage, {p: scorer.heads(stage.surgeon.view(p)) for p in usable})
        return stage.surgeon.remove_heads({p: _queries(usable[p], groups) for p, groups in chosen.items()})

    def _head_dims(self, stage: Stage, scorer: Scorer) -> UnitRemoval:
        items = stage.surgeon.heads()
        self._need("attention", [h.dims_reason for h in items])
        views = {h.path: stage.surgeon.view(h.path) for h in items if h.dims_reason is None}
        scores = {path: scorer.head_dims(view) for path, view in views.items()}
        ropes = _ropes(views)

        turned = {path for paths in ropes.values() for path in paths}
        sizes = [s.shape[1] // (2 if path in turned else 1) for path, both in scores.items() for s in both]
        self._refuse(stage, sizes, "local")

        chosen = {path: HeadDims(_each(qk, self.ratio), _each(v, self.ratio)) for path, (qk, v) in scores.items()}
        for paths in ropes.values():
            chosen |= self._turned({path: scores[path] for path in paths})
        return stage.surgeon.remove_head_dims(chosen)

    def _turned(self, scores: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, HeadDims]:
        """Return the dimensions that go where a rotary embedding turns queries and keys, the same in all modules.

        It turns dimension i together with dimension i + half, so that both go.

        :param scores: by module that one embedding serves: of queries and keys, and of values, ``(kv_heads, dims)``.
        """
        pairs = torch.cat([qk.view(len(qk), 2, -1).sum(1) for qk, _ in scores.values()]).sum(0)
        half = len(pairs)
        first = _each(pairs[None], self.ratio)[0]
        both = [*first, *[i + half for i in first]]
        return {path: HeadDims(both, _lowest(v, len(both))) for path, (_, v) in scores.items()}

    def _neurons(self, stage: Stage, scorer: Scorer) -> UnitRemoval:
        items = stage.surgeon.neurons()
        self._need("MLP", [n.reason for n in items])
        chosen = self._lowest(stage, {n.path: scorer.neurons(n) for n in items if n.reason is None})
        return stage.surgeon.remove_neurons(chosen)

    def _layers(self, stage: Stage, scorer: Scorer) -> UnitRemoval:
        items = stage.surgeon.layers()
        self._need("layer", [u.reason for u in items])

        stacks: dict[str, list[str]] = {}
        for unit in items:
            if unit.reason is None:
                stacks.setdefault(unit.container, []).append(unit.path)

        scores = {c: torch.stack([scorer.layer(p) for p in paths]) for c, paths in stacks.items()}
        chosen = self._lowest(stage, scores)
        return stage.surgeon.remove_layers([stacks[c][i] for c, gone in chosen.items() for i in gone])

    def _lowest(self, stage: Stage, scores: Mapping[str, Tensor]) -> dict[str, list[int]]:
        """Return the units that go, by module.

        :param scores: ``(units,)`` by module.
        """
        self._refuse(stage, [len(s) for s in scores.values()], self.scope)
        return lowest(scores, self.ratio, self.scope)

    def _refuse(self, stage: Stage, sizes: Sequence[int], scope: str) -> None:
        """Refuse a ratio with which no unit goes.

        :param sizes: units in each module.
        """
        refuse_nothing(stage, self.key, "ratio", self.ratio, sizes, unit=self.granularity, scope=scope)

    def _need(self, what: str, reasons: Sequence[str | None]) -> None:
        """Refuse a net in which nothing can go.

        :raises NotApplicable: with the first reason, if there is one.
        """
        if all(r is not None for r in reasons):
            why = next((r for r in reasons if r), f"the net has no {what} of a known class")
            raise NotApplicable(self.key, why)

    @hookimpl
    def report(self, stage: Stage) -> dict[str, float]:
        """Return what went, and how far the cut net was from the one with zeros."""
        return {
            "units_removed_percent": 100 * self.removed_,
            "parameters_removed_percent": 100 * self.parameters_,
            "largest_difference_ratio": self.difference_,
        }


def _queries(item: Heads, groups: Iterable[int]) -> list[int]:
    """Return the query heads of groups that share keys and values."""
    size = item.heads // item.kv_heads
    return [g * size + i for g in groups for i in range(size)]


def _ropes(views: Mapping[str, View]) -> dict[tuple[str, ...], list[str]]:
    """Return which attention modules share rotary embeddings, by the paths of these.

    :param views: by path of the module; those without such an embedding are left out.
    """
    found: dict[tuple[str, ...], list[str]] = {}
    for path, view in views.items():
        if view.rope:
            found.setdefault(view.rope, []).append(path)
    return found


def _each(scores: Tensor, ratio: float) -> list[list[int]]:
    """Return the lowest dimensions of each head, a share rounded, at least one left.

    :param scores: ``(heads, dims)``.
    """
    return _lowest(scores, min(round(ratio * scores.shape[1]), scores.shape[1] - 1))


def _lowest(scores: Tensor, count: int) -> list[list[int]]:
    """Return the ``count`` lowest dimensions of each head, the lowest first.

    :param scores: ``(heads, dims)``.
    """
    chosen: list[list[int]] = scores.argsort(dim=1, stable=True)[:, :count].tolist()
    return chosen
