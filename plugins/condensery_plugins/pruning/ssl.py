from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from condensery import Method, NotApplicable, Stage, UnknownKey, UsageError, Weight, hookimpl
from condensery.nets import CONVS
from condensery.run import Player
from condensery.surgery import is_depthwise
from condensery_plugins.pruning.filters import spare_outputs
from condensery_plugins.pruning.passages import Left, Passage, keep_alive, passages
from condensery_plugins.pruning.refusals import refuse_empty
from condensery_plugins.pruning.shortcuts import Shortcuts
from condensery_plugins.pruning.thinned import thin
from condensery_plugins.pruning.weight_groups import KINDS, Groups, living


@dataclass(eq=False, kw_only=True)
class StructuredSparsityLearning(Method):
    """Drive whole groups of weights to zero by a group lasso, then take them out of the net.

    Wen, Wu, Wang, Chen, Li: "Learning Structured Sparsity in Deep Neural Networks", NIPS 2016 [18]. The kinds of groups
    in ``granularity`` are ``filter`` (a linear layer's rows; not those that make the outputs), ``channel`` (columns),
    ``shape`` (one input channel and kernel position in all filters of a convolution) and ``depth`` (a whole layer
    around which a shortcut leads).

    *Loss*: task + strength * sum ||group|| for each kind (eq. 3 to 6), without a factor for the group's size. By
    subgradient, which is zero at zero. ``strengths`` gives the strength by kind; ``factors`` multiplies it by layer.

    *When*: after each step weights smaller than ``zero_below`` become zero, as in the authors' code, but for the
    largest one of a layer that has to stay.

    *End*: groups whose root mean square is ``threshold`` at most are zero for good. A layer stays alive unless it goes
    as a whole: it keeps the largest group of each kind, and where these meet neither each other nor the groups of the
    layers around it, those of its largest weight. Filters without weights, and those that no layer reads, are cut out
    of the net where they can be, with bias and norm; else masks hold the groups, and convolutions without some columns
    become thinner products.

    *Raises* NotApplicable for a kind of which the net has no group.
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
                raise UnknownKey("kind of group", word, KINDS, where=self.key)
        unused = sorted(set(self.strengths) - set(self.granularity))
        if unused or not self.granularity:
            raise UsageError(f"{self.key}.granularity lists no {unused[0] if unused else 'kind of group'}")
        if not self.zero_below and not self.threshold:
            raise UsageError(f"{self.key}: with zero_below 0 and threshold 0 no group ever goes; one must be > 0")

    # ---------------------------------------------------------------- before training

    @hookimpl
    def prepare(self, stage: Stage) -> None:
        """Find the layers that have groups of each kind; refuse what would leave nothing of them."""
        self.layers_ = {kind: self._layers_with(kind, stage) for kind in dict.fromkeys(self.granularity)}
        for kind, paths in self.layers_.items():
            if not paths:
                raise NotApplicable(self.key, NOTHING[kind])

        chosen = [w for w in stage.weights().by_path.values() if self._kinds_of(w)]
        self.factors_ = stage.layers(self.factors, f"{self.key}.factors", among=[w.path for w in chosen])
        self._refuse(stage, [w for w in chosen if not self._may_go(w) and bool(living(w).any())])

    @staticmethod
    def _layers_with(kind: str, stage: Stage) -> list[str]:
        """Return the paths of the layers that have groups of a kind."""
        weights = stage.weights().by_path
        if kind == "filter":
            last = stage.edges()[1]  # its rows are the classes
            return spare_outputs(stage, [path for path in weights if path != last])
        if kind == "depth":
            return Shortcuts(stage).bypassed([path for path in stage.order() if path in weights])

        whole = [w for w in weights.values() if not is_depthwise(w.module)]
        return [w.path for w in whole if kind == "channel" or isinstance(w.module, CONVS)]

    def _kinds_of(self, weight: Weight) -> list[str]:
        """Return the kinds of groups that a layer has."""
        return [kind for kind, paths in self.layers_.items() if weight.path in paths]

    def _may_go(self, weight: Weight) -> bool:
        """Tell whether a layer may go as a whole."""
        return "depth" in self._kinds_of(weight)

    def _refuse(self, stage: Stage, weights: Sequence[Weight]) -> None:
        """Refuse to set all weights of a layer to zero after a step, and a threshold that no group exceeds even now.

        A single weak layer is no reason: it keeps its largest group.

        :param weights: of the layers that have to stay.
        """
        keep = {w.name: w.alive & (w.latent.detach().abs() >= self.zero_below) for w in weights}
        refuse_empty(stage, f"{self.key}: zero_below {self.zero_below:g}", weights, keep, by="value")

        groups = [Groups(w, kind) for w in weights for kind in self._kinds_of(w)]
        if not any(bool((g.strengths() > self.threshold).any()) for g in groups):
            nothing = {w.name: torch.zeros_like(w.alive) for w in weights}
            refuse_empty(stage, f"{self.key}: threshold {self.threshold:g}", weights, nothing, by="value")

    # ---------------------------------------------------------------- training

    @hookimpl
    def loss_terms(self, stage: Stage, player: Player) -> dict[str, Tensor]:
        """Return the group lasso of each kind."""
        weights = stage.weights(player.name).by_path
        terms = {}
        for kind, paths in self.layers_.items():
            sums = [Groups(weights[p], kind).norms().sum() * self.factors_.get(p, 1.0) for p in paths]
            terms[kind] = self.strengths.get(kind, self.strength) * torch.stack(sums).sum()
        return terms

    @hookimpl
    def after_step(self, stage: Stage, player: Player) -> None:
        """Set weights to zero that are nearly zero, but for the largest one of a layer that has to stay."""
        for weight in stage.weights(player.name).by_path.values():
            if not self._kinds_of(weight):
                continue
            latent = weight.latent.data
            largest = living(weight).detach().abs().max().clamp(max=self.zero_below)
            limit = self.zero_below if self._may_go(weight) else largest
            latent.masked_fill_(latent.abs() < limit, 0.0)

    # ---------------------------------------------------------------- at the end

    @hookimpl
    def end_stage(self, stage: Stage) -> None:
        """Set weak groups to zero, cut what can be cut and mask the rest."""
        self.groups_: dict[str, int] = {}
        self.zero_: dict[str, int] = {}
        gone = self._remove_layers(stage) if "depth" in self.layers_ else []

        with torch.no_grad():
            left = {w.path: Left(w, self._inner_kinds(w), self.threshold) for w in stage.weights().by_path.values()}
            ways = passages(stage, {path: layer.used for path, layer in left.items()})
            keep_alive(stage, left, ways)
            self._zero(left, gone)

            # A layer that has gone stays as a mask: what it wrote would be cut out of its neighbours' shortcut too.
            self.cut_ = _cut(stage, left, [way for way in ways if not set(gone) & set(way.writers)])

            # A layer that came without any weights isn't held: it may still get some.
            for weight in stage.weights().by_path.values():
                keep = self._nonzero(weight, gone)
                if not bool(keep.all()) and (weight.path in gone or bool(keep.any())):
                    thin(stage, weight, keep)

    def _inner_kinds(self, weight: Weight) -> list[str]:
        """Return the kinds of groups inside a layer: all but the layer as a whole."""
        return [kind for kind in self._kinds_of(weight) if kind != "depth"]

    def _remove_layers(self, stage: Stage) -> list[str]:
        """Set weak layers to zero, the weakest first, as long as a shortcut leads around all of them; return them."""
        weights = stage.weights().by_path
        scores = {path: float(Groups(weights[path], "depth").strengths()) for path in self.layers_["depth"]}
        shortcuts = Shortcuts(stage)

        gone: list[str] = []
        for path in sorted(scores, key=scores.__getitem__):
            if scores[path] <= self.threshold and shortcuts.around([*gone, path]):
                gone.append(path)
                weights[path].latent.data.zero_()
                stage.give_up(path)

        self.groups_["depth"], self.zero_["depth"] = len(scores), len(gone)
        return gone

    def _zero(self, left: Mapping[str, Left], gone: Sequence[str]) -> None:
        """Set the weights that aren't left to zero, and count the groups, of a layer that has gone all of them."""
        for path, layer in left.items():
            layer.tensor.latent.data.masked_fill_(~layer.kept, 0.0)
            for groups, keep in zip(layer.groups, layer.keep, strict=True):
                lost = keep.numel() if path in gone else int((~keep).sum())
                self.groups_[groups.kind] = self.groups_.get(groups.kind, 0) + keep.numel()
                self.zero_[groups.kind] = self.zero_.get(groups.kind, 0) + lost

    def _nonzero(self, weight: Weight, gone: Sequence[str]) -> Tensor:
        """Return which weights are in no group that is zero, nor in a layer that has gone: bool, of their shape."""
        keep = torch.full_like(weight.alive, weight.path not in gone)
        for kind in self._inner_kinds(weight):
            groups = Groups(weight, kind)
            keep &= groups.spread(groups.norms() > 0)
        return keep

    @hookimpl
    def report(self, stage: Stage) -> dict[str, float]:
        """Return the share of groups that went, by kind, and how many layers and channels."""
        shares = {f"{kind}_removed_percent": 100 * n / self.groups_[kind] for kind, n in self.zero_.items()}
        layers = {"layers_removed_count": self.zero_["depth"]} if "depth" in self.zero_ else {}
        reached = stage.reached([w for w in stage.weights().by_path.values() if self._kinds_of(w)])
        return {**shares, **layers, "channels_cut_count": self.cut_, **reached}


NOTHING: Mapping[str, str] = {
    "filter": "the net has no layer before its last one",
    "channel": "the net has no layer with more than one input for each filter",
    "shape": "the net has no convolution whose filters share inputs",
    "depth": "no shortcut leads around any layer",
}
"""By kind, why there is no group of it."""


def _cut(stage: Stage, left: Mapping[str, Left], ways: Sequence[Passage]) -> int:
    """Cut channels that no layer writes, or that none reads, out of the net; return how many."""
    used = {path: layer.used for path, layer in left.items()}
    dead = {way.writers[0]: way.dead(used).nonzero().flatten().tolist() for way in ways}
    removed = {path: channels for path, channels in dead.items() if channels}
    stage.surgeon.remove_channels(removed)
    return sum(map(len, removed.values()))
