from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from condensery.contract import Method, hookimpl
from condensery.errors import NotApplicable, UsageError, nearest
from condensery.nets import CONVS, Weight
from condensery.run import Player, Stage, due_steps
from condensery.surgery import is_depthwise
from condensery_plugins.pruning.masks import keep_largest
from condensery_plugins.pruning.refusals import refuse_nothing
from condensery_plugins.pruning.thinned import thin
from condensery_plugins.pruning.weight_groups import grouped, living, norms, size, spread, with_largest


@dataclass(eq=False, kw_only=True)
class GroupBrainDamage(Method):
    """Let all filters of a convolution read the same few inputs, so that it becomes a product of thinner matrices.

    Lebedev, Lempitsky: "Fast ConvNets Using Group-wise Brain Damage", CVPR 2016 [19]. A group is an input channel and
    a kernel position, in all filters (of a convolution group). Loss: task + strength * sum ||group||, by subgradient,
    which is zero at zero; ``truncated`` takes min(||group||, the layer's norm at ``sparsity``), so that only groups
    which would go are shrunk. ``sparsity`` is the share of groups that go, those with the smallest norms in each layer
    (``local``) or of all layers together by mean square (``global``); ``rates`` gives it by layer path instead, and
    then no other layer is touched. Once the stage has ended (``end``), ``gradual``ly in ``steps`` over it, or when it
    starts (``start``, a fixed pattern; by ``random`` one that knows no norms). A convolution group keeps one group.

    When the recipe ends, convolutions compute with the columns that are left. Depthwise convolutions have no column
    that filters share. Raises NotApplicable on a net without others.
    """

    key = "group-brain-damage"

    leaves = frozenset({"mask"})

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
            raise NotApplicable("group-brain-damage", "the net has no convolution whose filters share inputs")
        for path in self.rates:
            if path not in whole:
                near = nearest(path, whole)
                hint = f"; did you mean {near!r}?" if near else ""
                raise UsageError(f"group-brain-damage.rates: no such convolution {path!r}{hint}")
        self.layers_ = list(self.rates) or whole
        groups = {w.path: norms(w.module, w.latent, "shape").numel() for w in self._weights(stage)}
        for path, rate in self.rates.items():
            refuse_nothing(stage, "group-brain-damage", f"rates.{path}", rate, [groups[path]], unit="group")
        if not self.rates:
            counts = list(groups.values())
            refuse_nothing(
                stage, "group-brain-damage", "sparsity", self.sparsity, counts, unit="group", scope=self.scope
            )
        self.done_ = 0
        self.due_ = due_steps(stage, self.steps) if self.schedule == "gradual" else []
        if self.schedule == "start":
            self._prune(stage, 1.0)
        elif self.schedule == "gradual":
            self._prune(stage, 0.0)

    @hookimpl
    def before_step(self, stage: Stage) -> None:
        """Let more groups go when that is due."""
        while self.due_ and stage.step >= self.due_[0]:
            self.due_ = self.due_[1:]
            self.done_ += 1
            self._prune(stage, self.done_ / self.steps)

    @hookimpl
    def loss_terms(self, stage: Stage, player: Player) -> dict[str, Tensor]:
        """Return the penalty."""
        sums = []
        for weight in self._weights(stage, player.name):
            sizes = norms(weight.module, living(weight), "shape")
            if self.penalty == "truncated":
                share = self.rates.get(weight.path, self.sparsity)
                last = max(1, round(share * sizes.numel()))
                limit = sizes.detach().flatten().kthvalue(last).values
                sizes = torch.where(sizes <= limit, sizes, limit)  # clamp halves the gradient at the limit
            sums.append(sizes.sum())
        return {"groups": self.strength * torch.stack(sums).sum()}

    @hookimpl
    def end_stage(self, stage: Stage) -> None:
        """Let all groups go that should have."""
        if self.schedule != "start":
            self._prune(stage, 1.0)

    def _weights(self, stage: Stage, player: str = "student") -> list[Weight]:
        return [w for w in stage.weights(player, kinds=CONVS) if w.path in self.layers_]

    @torch.no_grad()
    def _prune(self, stage: Stage, done: float) -> None:
        """Hold groups at zero.

        :param done: share of those that go in the end.
        """
        weights = {w.path: w for w in self._weights(stage)}
        generator = torch.Generator().manual_seed(stage.seed)
        sizes = {p: self._scores(w, generator) for p, w in weights.items()}
        if self.rates:
            keep = {p: keep_largest({p: s}, self.rates[p] * done, scope="local")[p] for p, s in sizes.items()}
        else:
            keep = keep_largest(sizes, self.sparsity * done, scope=self.scope)
        for path, weight in weights.items():
            left = spread(weight.module, weight.latent, with_largest(keep[path], sizes[path]))
            thin(stage, weight, left)

    def _scores(self, weight: Weight, generator: torch.Generator) -> Tensor:
        """Return the score of each group, minus infinity for those that are gone."""
        sizes = norms(weight.module, living(weight), "shape")
        if self.scope == "global":
            sizes = sizes / math.sqrt(size(weight.module, weight.latent, "shape"))
        if self.criterion == "random":
            sizes = torch.rand(sizes.shape, generator=generator).to(sizes)
        there = grouped(weight.module, weight.alive).any(1, keepdim=True)
        return torch.where(there, sizes, float("-inf"))

    @hookimpl
    def report(self, stage: Stage) -> dict[str, float]:
        """Return the share of groups that are gone."""
        alive = [grouped(w.module, w.alive).any(1) for w in self._weights(stage)]
        return {"groups_removed_percent": 100 * (1 - sum(int(a.sum()) for a in alive) / sum(a.numel() for a in alive))}
