from __future__ import annotations

from dataclasses import dataclass

from condensery.hookspecs import hookimpl
from condensery.methods import Method
from condensery.players import Player
from condensery.stage import BATCH_NORMS, Stage
from condensery_plugins.pruning.masks import keep_largest, mask, sizes, sparsity_percent


@dataclass(eq=False, kw_only=True)
class NetworkSlimming(Method):
    """Drive batch normalization's scales to zero, then switch off the channels with the smallest.

    Liu, Li, Shen, Huang, Yan, Zhang: "Learning Efficient Convolutional Networks through Network Slimming", ICCV 2017
    [16]. Loss: task + sparsity * sum |gamma| (eq. 1), by subgradient as in the authors' code. ``ratio`` is the share
    of all channels, ranked globally (section 3); each layer keeps its largest channel.
    Raises NotApplicable on a model without batch normalization.
    """

    needs = frozenset({"batch-norm", "dense-shape"})
    leaves = frozenset({"mask"})

    sparsity: float = 1e-4
    ratio: float = 0.5

    @hookimpl
    def after_backward(self, stage: Stage, player: Player) -> None:
        """Add the subgradient of the penalty."""
        for weight in stage.weights(player.name, kinds=BATCH_NORMS):
            if weight.latent.grad is not None:
                weight.latent.grad.add_(weight.latent.detach().sign(), alpha=self.sparsity)

    @hookimpl
    def end_stage(self, stage: Stage) -> None:
        """Switch channels off: scale and shift become zero."""
        scales = {w.path: w for w in stage.weights(kinds=BATCH_NORMS)}
        shifts = {w.path: w for w in stage.weights(kinds=BATCH_NORMS, tensor="bias")}
        scores = {p: sizes(w) for p, w in scales.items()}
        keep = keep_largest(scores, self.ratio, scope="global")
        for path, weight in scales.items():
            keep[path][scores[path].argmax()] = True
            mask(stage, weight, keep[path])
            if path in shifts:
                mask(stage, shifts[path], keep[path])

    @hookimpl
    def report(self, stage: Stage) -> dict[str, float]:
        """Return the share of channels switched off, and the mean size of the scales."""
        scales = stage.weights(kinds=BATCH_NORMS)
        total = sum(w.latent.numel() for w in scales)
        size = sum(float(w.latent.detach().abs().sum()) for w in scales) / total
        return {"channels_off_percent": sparsity_percent(scales), "mean_scale": size}
