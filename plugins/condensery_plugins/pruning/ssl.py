from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from condensery.contract import Method, hookimpl
from condensery.errors import NotApplicable, UnknownKey, UsageError, nearest
from condensery.nets import CONVS, Weight
from condensery.run import Player, Stage
from condensery.surgery import Group, is_depthwise
from condensery_plugins.pruning.refusals import refuse_empty
from condensery_plugins.pruning.shortcuts import Shortcuts
from condensery_plugins.pruning.thinned import thin
from condensery_plugins.pruning.weight_groups import KINDS, grouped, living, norms, size, spread, with_largest


@dataclass(eq=False, kw_only=True)
class StructuredSparsityLearning(Method):
    """Drive whole groups of weights to zero by a group lasso, then take them out of the net.

    Wen, Wu, Wang, Chen, Li: "Learning Structured Sparsity in Deep Neural Networks", NIPS 2016 [18]. Loss: task +
    strength * sum ||group|| for each kind in ``granularity`` (eq. 3 to 6), without a factor for the group's size:
    ``filter`` (a linear layer's rows, not of the last layer), ``channel`` (columns), ``shape`` (of a convolution, one
    input channel and kernel position in all filters) and ``depth`` (a whole layer around which a shortcut leads). By
    subgradient, which is zero at zero; after each step weights smaller than ``zero_below`` become zero, both as in the
    authors' code. ``factors`` multiplies the strength by layer path.

    When the stage ends, groups whose root mean square is ``threshold`` at most are zero for good; a layer keeps its
    largest group unless it goes as a whole. Filters without weights, and those that nobody reads, are cut where they
    can be, with bias and norm; else masks hold the groups, and convolutions with columns gone become thinner products.
    Raises NotApplicable for a kind of which the net has no group.
    """

    key = "ssl"

    leaves = frozenset({"mask"})
    removes = frozenset({"dense-shape"})

    granularity: list[str] = dataclasses.field(default_factory=lambda: ["filter", "channel"])
    strength: float = 0.003
    strengths: dict[str, float] = dataclasses.field(default_factory=dict)
    factors: dict[str, float] = dataclasses.field(default_factory=dict)
    zero_below: float = 1e-4
    threshold: float = 1e-4

    def __post_init__(self) -> None:
        """Check the words, and that something can become zero."""
        for word in [*self.granularity, *self.strengths]:
            if word not in KINDS:
                raise UnknownKey("kind of group", word, KINDS, where="ssl")
        unused = sorted(set(self.strengths) - set(self.granularity))
        if unused or not self.granularity:
            raise UsageError(f"ssl.granularity lists no {unused[0] if unused else 'kind of group'}")
        if not self.zero_below and not self.threshold:
            raise UsageError("ssl: with zero_below 0 and threshold 0 no group ever goes; one of them must be > 0")

    @hookimpl
    def prepare(self, stage: Stage) -> None:
        """Find the layers that have groups of each kind; refuse what would leave nothing of them."""
        weights = {w.path: w for w in stage.weights()}
        for path in sorted(set(self.factors) - set(weights)):
            near = nearest(path, weights)
            raise UsageError(f"ssl.factors: no layer {path!r}" + (f"; did you mean {near!r}?" if near else ""))
        last = stage.edges()[1]
        whole = [p for p, w in weights.items() if not is_depthwise(w.module)]
        found = {
            "filter": [p for p in weights if p != last],
            "channel": whole,
            "shape": [p for p in whole if isinstance(weights[p].module, CONVS)],
        }
        if "depth" in self.granularity:
            found["depth"] = Shortcuts(stage).bypassed([p for p in stage.order() if p in weights])
        self.layers_ = {kind: found[kind] for kind in dict.fromkeys(self.granularity)}
        chosen = {p for paths in self.layers_.values() for p in paths}
        for kind, paths in self.layers_.items():
            if not paths:
                raise NotApplicable("ssl", NOTHING[kind])
        self._refuse(stage, [w for p, w in weights.items() if p in chosen])

    def _refuse(self, stage: Stage, weights: list[Weight]) -> None:
        """Refuse to set all weights of a layer to zero after a step, and a threshold that no group exceeds even now.

        A single weak layer is no reason: it keeps its largest group.
        """
        may_go = self.layers_.get("depth", [])  # whole layers, by design
        judged = [w for w in weights if w.path not in may_go and bool(living(w).any())]
        keep = {w.name: w.alive & (w.latent.detach().abs() >= self.zero_below) for w in judged}
        refuse_empty(stage, f"ssl: zero_below {self.zero_below:g}", judged, keep, by="value")
        kinds = [(w, k) for w in judged for k, paths in self.layers_.items() if k != "depth" and w.path in paths]
        if not any(bool((self._strengths(w, k) > self.threshold).any()) for w, k in kinds):
            nothing = {w.name: torch.zeros(1, dtype=torch.bool) for w in judged}
            refuse_empty(stage, f"ssl: threshold {self.threshold:g}", judged, nothing, by="value")

    @hookimpl
    def loss_terms(self, stage: Stage, player: Player) -> dict[str, Tensor]:
        """Return the group lasso of each kind."""
        values = {w.path: (w, living(w)) for w in stage.weights(player.name)}
        terms = {}
        for kind, paths in self.layers_.items():
            sums = [norms(values[p][0].module, values[p][1], kind).sum() * self.factors.get(p, 1.0) for p in paths]
            terms[kind] = self.strengths.get(kind, self.strength) * torch.stack(sums).sum()
        return terms

    @hookimpl
    def after_step(self, stage: Stage, player: Player) -> None:
        """Set weights to zero that are nearly zero."""
        chosen = {p for paths in self.layers_.values() for p in paths}
        for weight in stage.weights(player.name):
            if weight.path in chosen:
                latent = weight.latent.data
                latent.masked_fill_(latent.abs() < self.zero_below, 0.0)

    @hookimpl
    def end_stage(self, stage: Stage) -> None:
        """Set weak groups to zero, cut what can be cut and mask the rest."""
        self.groups_: dict[str, int] = {}
        self.zero_: dict[str, int] = {}
        gone = self._remove_layers(stage) if "depth" in self.layers_ else []
        with torch.no_grad():
            self._zero(stage, gone)
            self.cut_ = sum(map(len, _cut(stage, set(gone)).values()))
            for weight in stage.weights():
                keep = self._left(weight, gone)
                if not bool(keep.all()) and (weight.path in gone or bool(keep.any())):
                    thin(stage, weight, keep)

    def _remove_layers(self, stage: Stage) -> list[str]:
        """Set weak layers to zero, the weakest first, as long as a shortcut leads around all of them; return them."""
        weights = {w.path: w for w in stage.weights() if w.path in self.layers_["depth"]}
        scores = {p: float(self._strengths(w, "depth")) for p, w in weights.items()}
        shortcuts = Shortcuts(stage)
        gone: list[str] = []
        for path in sorted(scores, key=scores.__getitem__):
            if scores[path] <= self.threshold and shortcuts.around([*gone, path]):
                gone.append(path)
                stage.give_up(path)
                weights[path].latent.data.zero_()
        self.groups_["depth"], self.zero_["depth"] = len(scores), len(gone)
        return gone

    @staticmethod
    def _strengths(weight: Weight, kind: str) -> Tensor:
        """Return the root mean square of each group."""
        values = living(weight).detach()
        return norms(weight.module, values, kind) / math.sqrt(size(weight.module, values, kind))

    def _zero(self, stage: Stage, gone: list[str]) -> None:
        """Set weak filters, channels and shapes to zero; all are judged before any is."""
        kept: dict[str, Tensor] = {}
        weights = {w.path: w for w in stage.weights()}
        for kind in [k for k in self.layers_ if k != "depth"]:
            self.groups_[kind] = self.zero_[kind] = 0
            for path in self.layers_[kind]:
                weight, scores = weights[path], self._strengths(weights[path], kind)
                keep = scores > self.threshold
                keep = keep if path in gone else with_largest(keep, scores)
                self.groups_[kind] += keep.numel()
                self.zero_[kind] += int((~keep).sum())
                left = spread(weight.module, weight.latent, keep)
                kept[path] = kept[path] & left if path in kept else left
        for path, keep in kept.items():
            weights[path].latent.data.masked_fill_(~keep, 0.0)

    def _left(self, weight: Weight, gone: list[str]) -> Tensor:
        """Return which weights of a layer are in no group that is zero."""
        values = living(weight)
        keep = torch.full_like(values, weight.path not in gone, dtype=torch.bool)
        for kind in [k for k, paths in self.layers_.items() if k != "depth" and weight.path in paths]:
            keep &= spread(weight.module, values, norms(weight.module, values, kind) > 0)
        return keep

    @hookimpl
    def report(self, stage: Stage) -> dict[str, float]:
        """Return the share of groups that went, by kind, and how many channels were cut out."""
        shares = {f"{k}_removed_percent": 100 * n / self.groups_[k] for k, n in self.zero_.items()}
        layers = {"layers_removed_count": self.zero_["depth"]} if "depth" in self.zero_ else {}
        return {**shares, **layers, "channels_cut_count": self.cut_}


NOTHING: Mapping[str, str] = {
    "filter": "the net has no layer before its last one",
    "channel": "the net has no layer with more than one input for each filter",
    "shape": "the net has no convolution whose filters share inputs",
    "depth": "no shortcut leads around any layer",
}
"""By kind, why there is no group of it."""


def _cut(stage: Stage, gone: set[str]) -> dict[str, list[int]]:
    """Cut channels that no filter writes, or that nobody reads, out of the net; return them by path.

    :param gone: layers that are zero as a whole: these stay, as masks.
    """
    weights = {w.path: w for w in stage.weights()}
    used = {p: living(w).detach() != 0 for p, w in weights.items()}
    if all(bool(u.flatten(1).any(1).all()) and bool(_read(weights[p], u).all()) for p, u in used.items()):
        return {}
    removed = {}
    for group in stage.surgeon.prunable():
        if group.blocks > 1 or gone & set(group.layers) or not set(group.layers) <= set(weights):
            continue
        written = torch.stack([used[p].flatten(1).any(1) for p in group.layers]).any(0)
        dead = ~written | _unread(stage, group, weights, used)
        if bool(dead.all()):
            dead[0] = False
        removed[group.layers[0]] = dead.nonzero().flatten().tolist()
    removed = {p: c for p, c in removed.items() if c}
    stage.surgeon.remove_channels(removed)
    return removed


def _read(weight: Weight, used: Tensor) -> Tensor:
    """Return which inputs of a layer some filter reads."""
    return grouped(weight.module, used).any(3).any(1).flatten()


def _unread(stage: Stage, group: Group, weights: Mapping[str, Weight], used: Mapping[str, Tensor]) -> Tensor:
    """Return which channels of a group only meet weights of zero."""
    path = group.layers[0]
    readers = stage.surgeon.inputs_gone({path: [0]})
    unread = torch.zeros(group.channels, dtype=torch.bool, device=used[path].device)
    if not readers or not set(readers) <= set(weights):
        return unread
    reads = {p: _read(weights[p], used[p]) for p in readers}
    if any(bool(r.all()) for r in reads.values()):
        return unread
    for channel in range(group.channels):
        met = stage.surgeon.inputs_gone({path: [channel]})
        unread[channel] = not any(bool(reads[p][inputs].any()) for p, inputs in met.items())
    return unread
