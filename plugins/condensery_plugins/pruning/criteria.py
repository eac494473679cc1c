"""How important a filter is: criteria of filter pruning, as functions of tensors and of a stage's layers.

Each criterion gives one score for each filter; the lowest go. Where data is looked at, the net is in eval mode and its
output at a filter is that of the norm behind the layer, if there is one. A ReLU behind it changes none of the scores.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from condensery import NotApplicable, Stage, UsageError, Weight
from condensery.nets import BATCH_NORMS
from condensery_plugins.pruning.curvature import evaluating, row_diagonal
from condensery_plugins.pruning.filters import norms_behind
from condensery_plugins.pruning.weight_groups import living

Criterion = Literal[
    "l1", "l2", "norm-scale", "taylor-weight", "taylor-output", "obd", "apoz", "geometric-median", "random"
]
Scores = dict[str, Tensor]
"""Of filters, ``(filters,)`` by path of the layer."""

# ---------------------------------------------------------------- of tensors


def l1(filters: Tensor) -> Tensor:
    """Return the sum of each filter's absolute weights, ``(filters,)``.

    Li, Kadav, Durdanovic, Samet, Graf: "Pruning Filters for Efficient ConvNets", ICLR 2017.

    :param filters: ``(filters, inputs, ...)``.
    """
    return filters.abs().flatten(1).sum(1)


def l2(filters: Tensor) -> Tensor:
    """Return the Euclidean norm of each filter, ``(filters,)``.

    He, Kang, Dong, Fu, Yang: "Soft Filter Pruning for Accelerating Deep Convolutional Neural Networks", IJCAI 2018.

    :param filters: ``(filters, inputs, ...)``.
    """
    return filters.flatten(1).square().sum(1).sqrt()


def geometric_median(filters: Tensor) -> Tensor:
    """Return the sum of each filter's distances to all filters of its layer that are still there, ``(filters,)``.

    He, Liu, Wang, Hu, Yang: "Filter Pruning via Geometric Median for Deep Convolutional Neural Networks Acceleration",
    CVPR 2019 (FPGM): the sum is smallest next to the geometric median, and what lies there can be replaced by the
    others. Filters that were held at zero before, all of them at the origin, would pull it there.

    :param filters: ``(filters, inputs, ...)``, zero where they are gone.
    """
    flat = filters.flatten(1)
    there = flat[flat.any(1)]
    return torch.cdist(flat, there, compute_mode="donot_use_mm_for_euclid_dist").sum(1)


def apoz(values: Tensor) -> Tensor:
    """Return the share of each channel that isn't positive, of which a ReLU makes zeros: ``(channels,)``, 0 to 1.

    Hu, Peng, Tai, Tang: "Network Trimming: A Data-Driven Neuron Pruning Approach towards Efficient Deep
    Architectures", 2016 (average percentage of zeros).

    :param values: ``(batch, channels, ...)``, before or after the ReLU.
    """
    return (values <= 0).transpose(0, 1).flatten(1).float().mean(1)


def taylor_weight(filters: Tensor, gradients: Tensor) -> Tensor:
    """Return (sum of g * w)^2 of each filter, ``(filters,)``: the squared first-order change of the loss without it.

    Molchanov, Mallya, Tyree, Frosio, Kautz: "Importance Estimation for Neural Network Pruning", CVPR 2019.

    :param filters: ``(filters, inputs, ...)``.
    :param gradients: of the loss of one batch, of the same shape.
    """
    return (filters * gradients).flatten(1).sum(1).square()


def obd(filters: Tensor, curvature: Tensor) -> Tensor:
    """Return the sum of h w^2 / 2 over each filter, ``(filters,)``: the second-order change of the loss without it.

    LeCun, Denker, Solla: "Optimal Brain Damage", NIPS 1989 [12], its saliencies added up as for parameters that are
    deleted together under its diagonal approximation.

    :param filters: ``(filters, inputs, ...)``.
    :param curvature: the diagonal of the loss's Hessian, of the same shape.
    """
    return (curvature * filters.double().square()).flatten(1).sum(1) / 2


def taylor_output(values: Tensor, gradients: Tensor) -> Tensor:
    """Return the mean over examples of |mean over positions of g * a| for each channel, ``(channels,)``.

    Molchanov, Tyree, Karras, Aila, Kautz: "Pruning Convolutional Neural Networks for Resource Efficient Inference",
    ICLR 2017, equation 8.

    :param values: ``(batch, channels, ...)``.
    :param gradients: of the same shape, of the sum of the examples' losses.
    """
    return (values * gradients).flatten(2).mean(2).abs().mean(0)


# ---------------------------------------------------------------- of layers


class Look(NamedTuple):
    """What some layers did on one batch of sampled examples.

    :param loss: mean over the batch; ``None`` without labels.
    :param outputs: of the layers that were asked for, by path: ``(batch, channels, ...)`` for each call of the layer.
    :param size: examples in the batch.
    """

    loss: Tensor | None
    outputs: dict[str, list[Tensor]]
    size: int


def score(stage: Stage, layers: Sequence[Weight], criterion: Criterion, samples: int) -> Scores:
    """Return the scores of layers' filters, ``(filters,)`` by path; a layer that the criterion can't see is left out.

    :param samples: training examples to look at, by the criteria that need data.
    :raises NotApplicable: if the criterion sees none of the layers.
    :raises UsageError: for a criterion that looks at the loss where there are no labels.
    """
    found = CRITERIA[criterion](stage, layers, samples)
    if not found:
        raise NotApplicable(f"criterion {criterion}", "the net calls none of the layers whose outputs it looks at")
    return found


def _of_weights(rate: Callable[[Tensor], Tensor]) -> Callable[[Stage, Sequence[Weight], int], Scores]:
    """Return a criterion that looks at weights alone; those that a mask holds count as zero."""

    def scores(stage: Stage, layers: Sequence[Weight], samples: int) -> Scores:
        return {w.path: rate(living(w).detach()) for w in layers}

    return scores


def _norm_scales(stage: Stage, layers: Sequence[Weight], samples: int) -> Scores:
    """|gamma| of the norm behind, as in Network Slimming (Liu et al., ICCV 2017), without its sparsity training."""
    behind = norms_behind(stage, [w.path for w in layers])
    scales = stage.weights(kinds=BATCH_NORMS).by_path
    found = {path: scales[norm].latent.detach().abs() for path, norm in behind.items() if norm in scales}
    if not found:
        raise NotApplicable("criterion norm-scale", "no layer has a batch normalization with scales behind it")
    return found


def _taylor_weights(stage: Stage, layers: Sequence[Weight], samples: int) -> Scores:
    """(sum of g * w)^2, the mean over batches."""
    sums = {w.path: torch.zeros(len(w.latent), device=w.latent.device) for w in layers}
    batches = 0
    for look in _looks(stage, [], samples):
        gradients = torch.autograd.grad(_given(look.loss, stage), [w.latent for w in layers], allow_unused=True)
        for weight, gradient in zip(layers, gradients, strict=True):
            if gradient is not None:
                sums[weight.path] += taylor_weight(weight.latent.detach(), gradient)
        batches += 1
    return {path: s / batches for path, s in sums.items()}


def _taylor_outputs(stage: Stage, layers: Sequence[Weight], samples: int) -> Scores:
    """With the paper's rescaling: each layer's scores have norm one, so that layers can be ranked together.

    Without a filter all calls of its layer change: the positions of all calls are in the mean of equation 8, before the
    absolute value. An output that the loss doesn't depend on has gradients of zero.
    """

    def rate(look: Look) -> Scores:
        outputs = [value for calls in look.outputs.values() for value in calls]
        loss = _given(look.loss, stage) * look.size
        gradients = iter(torch.autograd.grad(loss, outputs, materialize_grads=True))

        found: Scores = {}
        for path, calls in look.outputs.items():
            mine = [next(gradients) for _ in calls]
            # Calls on unlike batches can't be added up by examples: of those, each size of batch counts by itself.
            sizes = {len(value) for value in calls}
            apart = [taylor_output(_positions(calls, n).detach(), _positions(mine, n)) for n in sizes]
            found[path] = torch.stack(apart).sum(0)
        return found

    found = _of_outputs(stage, layers, samples, rate)
    return {path: s / s.norm().clamp_min(1e-12) for path, s in found.items()}


def _saliencies(stage: Stage, layers: Sequence[Weight], samples: int) -> Scores:
    """With the Gauss-Newton diagonal, one sampled row for each example."""
    diagonal = row_diagonal(
        stage, layers, stage.sample(samples), "sampled", method="criterion obd", instead="take another criterion"
    )
    return {w.path: obd(w.latent.detach(), h) for w, h in zip(layers, diagonal, strict=True)}


def _activity(stage: Stage, layers: Sequence[Weight], samples: int) -> Scores:
    """One minus APoZ, over all calls of a layer: a filter that is often zero matters little."""

    def rate(look: Look) -> Scores:
        together = {
            path: torch.cat([value.detach().transpose(0, 1).flatten(1) for value in calls], 1)
            for path, calls in look.outputs.items()
        }
        return {path: 1 - apoz(values[None]) for path, values in together.items()}

    return _of_outputs(stage, layers, samples, rate)


def _random(stage: Stage, layers: Sequence[Weight], samples: int) -> Scores:
    """Numbers from 0 to 1 by the stage's seed: the control that each criterion must beat."""
    generator = torch.Generator().manual_seed(stage.seed * 1_000_003 + stage.round)
    return {w.path: torch.rand(len(w.latent), generator=generator).to(w.latent.device) for w in layers}


CRITERIA: Mapping[Criterion, Callable[[Stage, Sequence[Weight], int], Scores]] = {
    "l1": _of_weights(l1),
    "l2": _of_weights(l2),
    "norm-scale": _norm_scales,
    "taylor-weight": _taylor_weights,
    "taylor-output": _taylor_outputs,
    "obd": _saliencies,
    "apoz": _activity,
    "geometric-median": _of_weights(geometric_median),
    "random": _random,
}


def _of_outputs(stage: Stage, layers: Sequence[Weight], samples: int, rate: Callable[[Look], Scores]) -> Scores:
    """Return the mean over examples of what ``rate`` says of the layers' outputs on one batch.

    A layer that the net never calls is left out.
    """
    sums: Scores = {}
    seen: dict[str, int] = {}
    for look in _looks(stage, [w.path for w in layers], samples):
        for path, found in rate(look).items() if look.outputs else ():
            sums[path] = sums[path] + found * look.size if path in sums else found * look.size
            seen[path] = seen.get(path, 0) + look.size
    return {path: s / seen[path] for path, s in sums.items()}


def _positions(calls: Sequence[Tensor], size: int) -> Tensor:
    """Return the positions of all calls on a batch of some size beside one another, ``(size, channels, positions)``."""
    return torch.cat([value.flatten(2) for value in calls if len(value) == size], 2)


def _given(loss: Tensor | None, stage: Stage) -> Tensor:
    """Return a loss.

    :raises UsageError: if there is none, because the stage has no labels.
    """
    if loss is None:
        raise UsageError(f"stage {stage.name!r}: this criterion looks at the loss, and there are no labels")
    return loss


def _looks(stage: Stage, paths: Sequence[str], samples: int) -> Iterator[Look]:
    """Look at batches of sampled examples, one after the other.

    :param paths: of the layers whose outputs are wanted; those that aren't called have none.
    """
    net = stage.student.module
    for batch in (batch for batch in stage.sample(samples) if not stage.task.is_empty(batch)):
        with evaluating(net), _behind_norms(net, paths) as calls:
            loss = stage.task.loss(stage.task.outputs(net, batch), batch)
        yield Look(loss, {path: [call.seen for call in made] for path, made in calls.items() if made}, batch.size)


@dataclasses.dataclass
class Call:
    """One call of a layer.

    :param written: its output.
    :param seen: that of the norm behind, where one has read ``written``; else ``written``.
    """

    written: Tensor
    seen: Tensor


@contextlib.contextmanager
def _behind_norms(net: nn.Module, paths: Sequence[str]) -> Iterator[dict[str, list[Call]]]:
    """Collect the calls of some layers, by path; one layer may have another norm behind each call, or share one."""
    calls: dict[str, list[Call]] = {path: [] for path in paths}

    def keep(path: str, output: Tensor) -> None:
        calls[path].append(Call(output, output))

    def follow(read: Tensor, output: Tensor) -> None:
        # As all outputs are kept, the same memory in the same shape is the same output.
        for call in (call for made in calls.values() for call in made):
            if call.written.data_ptr() == read.data_ptr() and call.written.shape == read.shape:
                call.seen = output

    with contextlib.ExitStack() as hooks:
        for path in paths:
            handle = net.get_submodule(path).register_forward_hook(lambda m, args, out, path=path: keep(path, out))
            hooks.callback(handle.remove)
        for norm in (module for module in net.modules() if isinstance(module, BATCH_NORMS)):
            handle = norm.register_forward_hook(lambda m, args, out: follow(args[0], out) if args else None)
            hooks.callback(handle.remove)
        yield calls
