"""What makes good for a shift that rounding brought into a net, from examples without labels and without training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from condensery import Batch, Stage
from condensery.nets import BATCH_NORMS, CONVS, LINEARS, Weights, evaluating

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def shiftable(stage: Stage) -> Weights:
    """Return the biases that can take in a shift: those of linear layers, convolutions and batch normalizations."""
    kinds = (*LINEARS, *CONVS, *TRANSPOSED, *BATCH_NORMS)
    return stage.weights(kinds=kinds, tensor="bias")


def channel_means(stage: Stage, paths: Iterable[str], examples: Sequence[Batch]) -> dict[str, Tensor]:
    """Return the mean output of each channel of some layers, ``(channels,)``, float64, in the order of their calls.

    :param paths: a layer that isn't called is left out.
    :param examples: that are looked at.
    """
    net = stage.student.module
    seen: dict[str, list[Tensor]] = {}

    def look(path: str, module: nn.Module, out: Tensor) -> None:
        channels = out.detach().movedim(-1 if isinstance(module, nn.Linear) else 1, 0).flatten(1)
        sums = torch.cat([channels.sum(1, dtype=torch.float64), channels.new_tensor([channels.size(1)])])
        seen.setdefault(path, []).append(sums)

    handles = [
        net.get_submodule(path).register_forward_hook(lambda m, _, out, path=path: look(path, m, out)) for path in paths
    ]
    with evaluating(net), torch.no_grad():
        for batch in examples:
            stage.task.outputs(net, batch)
    for handle in handles:
        handle.remove()

    totals = {path: torch.stack(sums).sum(0) for path, sums in seen.items()}
    return {path: total[:-1] / total[-1] for path, total in totals.items()}


def correct_biases(stage: Stage, means: Mapping[str, Tensor], examples: Sequence[Batch]) -> int:
    """Take from each bias what rounding added to the mean output of its channel; returns how many layers have one.

    Nagel, van Baalen, Blankevoort, Welling: "Data-Free Quantization through Weight Equalization and Bias Correction",
    ICCV 2019, section 4.2 and appendix D, the empirical way: in the order of the calls, so that each layer is corrected
    behind those before it. A layer without a bias is corrected by the batch normalization behind it, if there is one.

    :param means: of the net before it was quantized, by path in the order of the calls: :func:`channel_means`.
    """
    biases = shiftable(stage).by_path
    for path, wanted in means.items():
        shift = channel_means(stage, [path], examples)[path] - wanted
        bias = biases[path].latent
        bias.data.sub_(shift.to(bias.dtype))
    return len(means)


def reestimate_norms(stage: Stage, examples: Sequence[Batch]) -> int:
    """Let batch normalizations average mean and variance anew over examples; returns how many there are.

    Each batch counts alike. A batch of one example has no variance and is left out.
    """
    net = stage.student.module
    norms = [m for m in net.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    batches = [batch for batch in examples if batch.size > 1]
    if not batches:
        return 0

    momenta = [norm.momentum for norm in norms]
    with evaluating(net), torch.no_grad():
        for norm in norms:
            norm.reset_running_stats()
            norm.train()
            norm.momentum = None  # an even average
        for batch in batches:
            stage.task.outputs(net, batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return len(norms)
