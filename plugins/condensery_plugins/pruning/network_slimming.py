from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from condensery import Method, NotApplicable, Stage, hookimpl
from condensery.nets import BATCH_NORMS
from condensery.run import Player
from condensery_plugins.pruning.channel_selection import selection
from condensery_plugins.pruning.filters import (
    Coupled,
    at_most,
    count,
    cut_channels,
    hold_norms,
    is_free,
    is_on,
    smallest,
    spare_outputs,
)
from condensery_plugins.pruning.masks import sizes
from condensery_plugins.pruning.refusals import refuse_nothing


@dataclass(eq=False, kw_only=True)
class NetworkSlimming(Method):
    """Drive batch normalization's scales to zero, then cut the channels with the smallest out of the net.

    Liu, Li, Shen, Huang, Yan, Zhang: "Learning Efficient Convolutional Networks through Network Slimming", ICCV 2017
    [16]. ``ratio`` is the share of all channels that go, ranked globally (section 3) or, for the MLP of Table 3, in
    each layer by itself (``scope``); ``max_share`` caps what a layer loses (section 4.6, the multi-pass scheme: half).
    A layer keeps its largest channel, and one that writes the net's outputs all of them. Both shares are of the
    channels still there: what an earlier pass switched off neither counts nor is ranked.

    Loss: task + sparsity * sum |gamma| (eq. 1), by subgradient as in the authors' code.

    End: channels that one layer writes are cut. Where a residual connection or a concatenation couples them, scale and
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
        scales = stage.weights(kinds=BATCH_NORMS).by_path
        inner = spare_outputs(stage, list(scales))
        if not inner:
            raise NotApplicable(self.key, "every batch normalization's channels are the net's outputs")
        self.norms_ = [path for path in inner if self.coupled == "hold" or _is_alone(stage, path, scales)]
        if not self.norms_:
            raise NotApplicable(self.key, "every batch normalization's channels go together with other layers'")

        channels = [int(scales[path].alive.sum()) for path in self.norms_]
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
        scales = stage.weights(kinds=BATCH_NORMS).by_path
        # Another method of the stage may have folded norms, or taken them away with the blocks that they were in.
        scores = {path: sizes(scales[path]) for path in self.norms_ if path in scales}
        if not scores:
            raise NotApplicable(self.key, "another method of its stage takes all batch normalizations away")
        there = torch.cat([s[is_on(s)] for s in scores.values()])
        self.channels_, self.mean_scale_ = len(there), there.mean().item()

        off = smallest(scores, self.ratio, self.scope, self.max_share)
        alone = {path: o for path, o in off.items() if _is_alone(stage, path, scales)}
        coupled = {path: o for path, o in off.items() if path not in alone}
        _switch_off(stage, coupled)
        cut_channels(stage, alone)
        self.narrowed_ = _narrow(stage, coupled)
        self.cut_, self.off_ = count(alone), count(coupled)

    @hookimpl
    def report(self, stage: Stage) -> dict[str, float]:
        """Return the shares of channels cut and only switched off, of those there, and the mean size of the scales."""
        return {
            "channels_cut_percent": 100 * self.cut_ / self.channels_,
            "channels_off_percent": 100 * self.off_ / self.channels_,
            "narrowed_layers_count": self.narrowed_,
            "mean_scale": self.mean_scale_,
        }


def _is_alone(stage: Stage, path: str, norms: Collection[str]) -> bool:
    """Tell whether a norm's channels belong to one layer and can be cut, each for itself.

    :param path: of the norm.
    :param norms: paths of all norms.
    """
    group = stage.surgeon.group(path)
    if group is None or not is_free(stage, group.layers[0]):
        return False
    only = sum(norm in norms for norm in group.norms) == 1
    return only and stage.surgeon.goes_through(group.layers[0], path)


def _switch_off(stage: Stage, off: Mapping[str, Tensor]) -> None:
    """Hold scale and shift of coupled channels at zero.

    :param off: bool of shape ``(channels,)`` by path of the norm.
    """
    hold_norms(stage, {path: o for path, o in off.items() if bool(o.any())})

    # That a layer may be narrowed is proven on latent tensors, so these become zero too, also under earlier masks.
    for tensor in ("weight", "bias"):
        for held in stage.weights(kinds=BATCH_NORMS, tensor=tensor):
            if held.path in off:
                held.latent.data[~held.alive] = 0.0


def _narrow(stage: Stage, norms: Collection[str]) -> int:
    """Narrow the layers that read nothing but a norm with channels off; return how many.

    :param norms: paths of the norms.
    """
    scales = [w for w in stage.weights(kinds=BATCH_NORMS) if w.path in norms and not bool(w.alive.all())]
    keep = {reader: w.alive for w in scales for reader in stage.surgeon.readers(w.path)}
    cut = stage.surgeon.narrow_inputs(keep, selection)
    return 0 if cut is None else len(cut.tensors)
