from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from condensery.contract import Method, hookimpl
from condensery.errors import NotApplicable
from condensery.nets import BATCH_NORMS
from condensery.run import Player, Stage
from condensery_plugins.pruning.channel_selection import selection
from condensery_plugins.pruning.filters import Coupled
from condensery_plugins.pruning.masks import mask, sizes
from condensery_plugins.pruning.refusals import refuse_nothing


@dataclass(eq=False, kw_only=True)
class NetworkSlimming(Method):
    """Drive batch normalization's scales to zero, then cut the channels with the smallest out of the net.

    Liu, Li, Shen, Huang, Yan, Zhang: "Learning Efficient Convolutional Networks through Network Slimming", ICCV 2017
    [16]. Loss: task + sparsity * sum |gamma| (eq. 1), by subgradient as in the authors' code. ``ratio`` is the share
    of all channels, ranked globally (section 3) or, for the MLP of Table 3, in each layer by itself (``scope``);
    ``max_share`` caps what a layer loses (section 4.6, the multi-pass scheme: half). A layer keeps its largest channel.
    Both shares are of the channels still there: what an earlier pass switched off neither counts nor is ranked.

    Channels that one layer writes are cut. Where a residual connection or a concatenation couples them, scale and
    shift are held at zero; the layers that read only the norm, as in pre-activation nets, are narrowed behind a channel
    selection. With ``coupled="leave"`` only channels that can be cut are penalized and ranked.
    Raises NotApplicable on a model without batch normalization, or without any whose channels may go.
    """

    key = "network-slimming"

    needs = frozenset({"batch-norm"})
    leaves = frozenset({"mask"})
    removes = frozenset({"dense-shape"})

    sparsity: float = 1e-4
    ratio: float = 0.5
    scope: Literal["global", "local"] = "global"
    max_share: float = 1.0
    coupled: Coupled = "hold"

    @hookimpl
    def prepare(self, stage: Stage) -> None:
        """Find the norms that take part, which no penalty changes; refuse shares with which no channel would go."""
        scales = {w.path: w for w in stage.weights(kinds=BATCH_NORMS)}
        self.norms_ = [p for p in scales if self.coupled == "hold" or _alone(stage, p, scales)]
        if not self.norms_:
            raise NotApplicable(self.key, "shortcuts couple the channels of every batch normalization with others")
        channels = [int(scales[p].alive.sum()) for p in self.norms_]
        refuse_nothing(stage, self.key, "ratio", self.ratio, channels, unit="channel", scope=self.scope)
        refuse_nothing(stage, self.key, "max_share", self.max_share, channels, unit="channel", goes=at_most)

    @hookimpl
    def after_backward(self, stage: Stage, player: Player) -> None:
        """Add the subgradient of the penalty."""
        for weight in stage.weights(player.name, kinds=BATCH_NORMS):
            if weight.path in self.norms_ and weight.latent.grad is not None:
                weight.latent.grad.add_(weight.latent.detach().sign(), alpha=self.sparsity)

    @hookimpl
    def end_stage(self, stage: Stage) -> None:
        """Cut the channels with the smallest scales; where they are coupled, switch them off."""
        scales = {w.path: w for w in stage.weights(kinds=BATCH_NORMS)}
        scores = {p: sizes(scales[p]) for p in self.norms_}
        there = torch.cat([s[is_on(s)] for s in scores.values()])
        self.mean_scale_ = there.mean().item()
        self.channels_ = len(there)
        off = smallest(scores, self.ratio, self.scope, self.max_share)
        alone = {p: o for p, o in off.items() if _alone(stage, p, scales)}
        self._switch_off(stage, {p: o for p, o in off.items() if p not in alone})
        stage.surgeon.remove_channels({p: o.nonzero().flatten().tolist() for p, o in alone.items()})
        self.narrowed_ = self._narrow(stage, set(off) - set(alone))
        self.cut_ = sum(int(o.sum()) for o in alone.values())
        self.off_ = sum(int(o.sum()) for o in off.values()) - self.cut_

    @staticmethod
    def _switch_off(stage: Stage, off: Mapping[str, Tensor]) -> None:
        """Hold scale and shift of coupled channels at zero."""
        for tensor in ("weight", "bias"):
            for held in stage.weights(kinds=BATCH_NORMS, tensor=tensor):
                if held.path not in off:
                    continue
                if bool(off[held.path].any()):
                    mask(stage, held, ~off[held.path])
                held.latent.data[~held.alive] = 0.0  # of earlier masks too: narrowing is proven on latent tensors

    @staticmethod
    def _narrow(stage: Stage, norms: set[str]) -> int:
        """Narrow the layers that read nothing but a norm with channels off; return how many."""
        scales = {w.path: w for w in stage.weights(kinds=BATCH_NORMS) if w.path in norms and not bool(w.alive.all())}
        keep = {reader: w.alive for path, w in scales.items() for reader in stage.surgeon.readers(path)}
        cut = stage.surgeon.narrow_inputs(keep, selection)
        return 0 if cut is None else len(cut.tensors)

    @hookimpl
    def report(self, stage: Stage) -> dict[str, float]:
        """Return the shares of channels cut and only switched off, of those there, and the mean size of the scales."""
        return {
            "channels_cut_percent": 100 * self.cut_ / self.channels_,
            "channels_off_percent": 100 * self.off_ / self.channels_,
            "narrowed_layers_count": self.narrowed_,
            "mean_scale": self.mean_scale_,
        }


def _alone(stage: Stage, path: str, norms: Mapping[str, object]) -> bool:
    """Tell whether a norm's channels belong to one layer and can be cut, each for itself."""
    group = stage.surgeon.group(path)
    if group is None or group.reason is not None or group.blocks > 1:
        return False
    if len(group.layers) != 1 or sum(n in norms for n in group.norms) != 1:
        return False
    return stage.surgeon.goes_through(group.layers[0], path)


def smallest(scores: Mapping[str, Tensor], ratio: float, scope: str, max_share: float = 1.0) -> dict[str, Tensor]:
    """Return which channels go, as bool tensors: a share of those still there, the smallest of all or of each layer.

    A layer's largest channel stays, and so do the largest ones beyond ``max_share`` of what it has: then fewer go.

    :param scores: one for each channel by layer; ``-inf`` marks what is off already: it neither counts nor goes.
    """
    if scope == "local":
        return {p: smallest({p: s}, ratio, "global", max_share)[p] for p, s in scores.items()}
    left = [s[is_on(s)] for s in scores.values()]
    flat = torch.cat(left)
    gone = torch.zeros(len(flat), dtype=torch.bool, device=flat.device)
    gone[flat.argsort(stable=True)[: round(ratio * len(flat))]] = True
    found = {}
    for (path, score), own, goes in zip(scores.items(), left, torch.split(gone, [len(s) for s in left]), strict=True):
        goes[own.argsort(stable=True)[at_most(len(own), max_share) :]] = False
        found[path] = torch.zeros_like(score, dtype=torch.bool).masked_scatter(is_on(score), goes)
    return found


def at_most(channels: int, max_share: float) -> int:
    """Return how many channels a layer may lose; one stays."""
    return max(0, min(channels - 1, int(max_share * channels + 1e-9)))


def is_on(scores: Tensor) -> Tensor:
    """Return which channels no mask holds at zero."""
    return scores > float("-inf")
