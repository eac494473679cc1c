from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from condensery import NotApplicable, Stage, hookimpl
from condensery.nets import CONVS
from condensery.run import Player
from condensery.surgery import is_depthwise
from condensery_plugins.pruning.masks import keep_largest
from condensery_plugins.pruning.refusals import refuse_nothing
from condensery_plugins.pruning.stepwise import InSteps
from condensery_plugins.pruning.thinned import thin
from condensery_plugins.pruning.weight_groups import Groups, with_largest


@dataclass(eq=False, kw_only=True)
class GroupBrainDamage(InSteps):
    """Let all filters of a convolution read the same few inputs, so that it becomes a product of thinner matrices.

    Lebedev, Lempitsky: "Fast ConvNets Using Group-wise Brain Damage", CVPR 2016 [19]. A group is an input channel and a
    kernel position, in all filters (of a convolution group). ``sparsity`` is the share of groups that go: those with
    the smallest norms of each layer (``local``), or of all layers together by mean square (``global``). ``rates`` gives
    it by layer, and then no other layer is touched. By ``random`` the pattern is a fixed one that knows no norms.

    *Loss*: task + strength * sum ||group||, by subgradient, which is zero at zero. ``truncated`` takes
    min(||group||, the layer's norm at ``sparsity``), so that only groups which would go are shrunk.

    *When*: once the stage has ended (``end``), when it starts (``start``), or in ``steps`` over it (``gradual``): step
    i of n, after i/n of the stage, reaches i/n. A convolution group keeps its largest group.

    *End*: when the recipe ends, convolutions over two dimensions compute with the columns that are left; those over one
    or three stay masked, which saves storage and no time.

    *Raises* NotApplicable on a net without convolutions but depthwise ones, whose filters share no column.
    """

    key = "group-brain-damage"

    strength: float = 0.001
    penalty: Literal["l21", "truncated"] = "l21"
    sparsity: float = 0.5
    scope: Literal["local", "global"] = "local"
    rates: dict[str, float] = dataclasses.field(default_factory=dict)
    schedule: Literal["end", "gradual", "start"] = "end"
    steps: int = 10
    criterion: Literal["norm", "random"] = "norm"

    @hookimpl
    def prepare(self, stage: Stage) -> None:
        """Choose the layers, attach masks, and plan when groups go."""
        whole = [w.path for w in stage.weights(kinds=CONVS) if not is_depthwise(w.module)]
        if not whole:
            raise NotApplicable(self.key, "the net has no convolution whose filters share inputs")

        named = stage.layers({name: name for name in self.rates}, f"{self.key}.rates", among=whole)
        self.shares_ = {path: self.rates[name] for path, name in named.items()}
        if not self.rates:
            self.shares_ = dict.fromkeys(whole, self.sparsity)
        self._refuse(stage, named)
        self.start(stage, self.steps if self.schedule == "gradual" else 1)

    def _refuse(self, stage: Stage, named: dict[str, str]) -> None:
        """Refuse shares that take no group away.

        :param named: by path of a layer, which of ``rates`` it gets.
        """
        sizes = {groups.tensor.path: groups.norms().numel() for groups in self._groups(stage)}
        if not self.rates:
            counts = list(sizes.values())
            refuse_nothing(stage, self.key, "sparsity", self.sparsity, counts, unit="group", scope=self.scope)
        for name, rate in self.rates.items():
            counts = [sizes[path] for path, chosen in named.items() if chosen == name]
            refuse_nothing(stage, self.key, f"rates.{name}", rate, counts, unit="group")

    @hookimpl
    def loss_terms(self, stage: Stage, player: Player) -> dict[str, Tensor]:
        """Return the penalty."""
        sums = []
        for groups in self._groups(stage, player.name):
            sizes = groups.norms()
            if self.penalty == "truncated":
                last = max(1, round(self.shares_[groups.tensor.path] * sizes.numel()))
                limit = sizes.detach().flatten().kthvalue(last).values
                sizes = torch.where(sizes <= limit, sizes, limit)  # clamp halves the gradient at the limit
            sums.append(sizes.sum())
        return {"groups": self.strength * torch.stack(sums).sum()}

    def reach(self, stage: Stage) -> None:
        """Let the groups go that are due; with the schedule ``end`` none are before the stage has ended.

        A gradual schedule takes nothing at the start: its masks are attached before an optimizer runs, and the last of
        its steps falls on the stage's end.
        """
        if self.schedule != "end":
            self._prune(stage, 1.0 if self.schedule == "start" else (self.done_ - 1) / self.steps)

    @hookimpl
    def end_stage(self, stage: Stage) -> None:
        """Let all groups go that should have."""
        if self.schedule != "start":
            self._prune(stage, 1.0)

    def _groups(self, stage: Stage, player: str = "student") -> list[Groups]:
        """Return the groups of each layer that is pruned, in the net's order."""
        return [Groups(w, "shape") for w in stage.weights(player, kinds=CONVS) if w.path in self.shares_]

    @torch.no_grad()
    def _prune(self, stage: Stage, done: float) -> None:
        """Hold groups at zero.

        :param done: share of those that go in the end.
        """
        layers = {groups.tensor.path: groups for groups in self._groups(stage)}
        generator = torch.Generator().manual_seed(stage.seed)
        scores = {path: self._scores(groups, generator) for path, groups in layers.items()}

        if self.scope == "global" and not self.rates:
            keep = keep_largest(scores, self.sparsity * done, scope="global")
        else:
            keep = {}
            for path, score in scores.items():
                keep |= keep_largest({path: score}, self.shares_[path] * done, scope="local")

        for path, groups in layers.items():
            thin(stage, groups.tensor, groups.spread(with_largest(keep[path], scores[path])))

    def _scores(self, groups: Groups, generator: torch.Generator) -> Tensor:
        """Return the score of each group of a layer, minus infinity for those that are gone."""
        sizes = groups.strengths() if self.scope == "global" else groups.norms()
        if self.criterion == "random":
            sizes = torch.rand(sizes.shape, generator=generator).to(sizes)
        return torch.where(groups.around(groups.tensor.alive), sizes, float("-inf"))

    @hookimpl
    def report(self, stage: Stage) -> dict[str, float]:
        """Return the share of groups that are gone."""
        alive = [groups.around(groups.tensor.alive) for groups in self._groups(stage)]
        return {"groups_removed_percent": 100 * (1 - sum(int(a.sum()) for a in alive) / sum(a.numel() for a in alive))}
