"""Layers of a net that fires -1, 0 and 1 become whole sums with thresholds: which ones can, and what they see."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from condensery import Batch, Stage
from condensery.nets import SITE_PREFIX, attached, evaluating
from condensery_plugins.quantization.ternary_firing import TernaryFiring

FIRES = math.atanh(0.5)
"""What a unit's tanh must be given to round to 1."""
PASSING = (nn.Identity, nn.Dropout, nn.MaxPool1d, nn.MaxPool2d, nn.Flatten)
"""Modules that may stand between a norm and the layer that fires: they let the order of numbers be."""


class Chain(NamedTuple):
    """A layer whose outputs are fired and nothing else.

    :param layer: its path; ``norm`` that of the batch normalization behind it, if there is one.
    """

    layer: str
    norm: str | None

    @property
    def end(self) -> str:
        """Return the module whose output the teacher fires."""
        return self.norm or self.layer


class Call(NamedTuple):
    """One call of a module: what it was given, before what is on its input, and what it made."""

    path: str
    given: Tensor
    made: Tensor


def chains(stage: Stage, layers: Sequence[str]) -> dict[str, Chain | str]:
    """Return for each layer its chain up to the next that fires, or why it has none.

    :param layers: paths.
    """
    net = stage.student.module
    known = {path: module for path, module in net.named_modules() if _looked_at(path, module)}
    fired = {a.target.partition(":")[0] for a in attached(net) if isinstance(a.transform, TernaryFiring)}
    calls: list[Call] = []
    given: list[Tensor] = []

    handles = []
    for path, module in known.items():
        handles.append(module.register_forward_pre_hook(lambda m, args: given.append(args[0]), prepend=True))
        handles.append(
            module.register_forward_hook(lambda m, args, out, p=path: calls.append(Call(p, given.pop(), out)))
        )
    with evaluating(net), torch.no_grad():
        stage.task.outputs(net, Batch(stage.task.example(2)).to(stage.device))
    for handle in handles:
        handle.remove()
    return {path: _chain(path, known, calls, fired) for path in layers}


def _looked_at(path: str, module: nn.Module) -> bool:
    """Tell whether a module is a step of a chain: a layer, a norm, or one that lets numbers pass."""
    kinds = (nn.Linear, nn.Conv2d, _BatchNorm, *PASSING)
    return isinstance(module, kinds) and SITE_PREFIX not in path


def _chain(path: str, known: Mapping[str, nn.Module], calls: Sequence[Call], fired: set[str]) -> Chain | str:
    """Follow one layer's output from module to module."""
    own = [call for call in calls if call.path == path]
    if len(own) != 1 or not _plain(known[path]):
        return "it is no linear layer or plain convolution that is called once"

    norm, here = None, own[0]
    while True:
        # What only hands on the same tensor, as dropout does out of training, isn't in the way.
        readers = [call for call in calls if call.given is here.made and call.made is not here.made]
        if len(readers) != 1:
            return f"what {here.path!r} makes isn't read by one module"
        here = readers[0]
        if here.path in fired:
            return Chain(path, norm)
        if isinstance(known[here.path], _BatchNorm) and norm is None:
            norm = here.path
        elif not isinstance(known[here.path], PASSING):
            return f"{here.path!r} stands between it and a layer that fires"


def _plain(layer: nn.Module) -> bool:
    """Tell whether a layer's sums are those of rows or windows of its input, all of it and padded with zeros."""
    if isinstance(layer, nn.Conv2d):
        return layer.groups == 1 and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    return isinstance(layer, nn.Linear)


def look(stage: Stage, examples: Sequence[Batch], layer: str, end: str | None = None) -> list[tuple[Tensor, Tensor]]:
    """Return what a layer is given, behind what is on its input, and what the end of its chain makes, for each batch.

    :param end: by default the layer itself.
    """
    net = stage.student.module
    given: list[Tensor] = []
    made: list[Tensor] = []
    handles = [
        net.get_submodule(layer).register_forward_hook(lambda m, args, out: given.append(args[0])),
        net.get_submodule(end or layer).register_forward_hook(lambda m, args, out: made.append(out)),
    ]
    with evaluating(net), torch.no_grad():
        for batch in examples:
            stage.task.outputs(net, batch)
    for handle in handles:
        handle.remove()
    return list(zip(given, made, strict=True))


def rows_of(layer: nn.Module, x: Tensor, count: int, seed: int) -> Tensor:
    """Return what each sum of a layer is made of, ``(rows, inputs)``: of maps the windows at some drawn places.

    :param x: given to the layer, ``(batch, ..., inputs)``, or ``(batch, channels, height, width)``.
    :param count: places that are taken of each map at most, the same ones for all maps.
    """
    if not isinstance(layer, nn.Conv2d):
        return x.reshape(-1, x.shape[-1])

    sizes = {"dilation": layer.dilation, "padding": layer.padding, "stride": layer.stride}
    rows = []
    for one in torch.split(x, 1):  # the windows of all maps at once would fill the memory
        windows = torch.nn.functional.unfold(one, layer.kernel_size, **sizes)[0].T  # type: ignore[arg-type]
        rows.append(windows[places(len(windows), count, seed)])
    return torch.cat(rows)


def units_of(layer: nn.Module, y: Tensor, count: int, seed: int) -> Tensor:
    """Return what a layer's units make at the same places as :func:`rows_of`, ``(rows, units)``."""
    if not isinstance(layer, nn.Conv2d):
        return y.reshape(-1, y.shape[-1])
    maps = y.flatten(2)
    return maps[:, :, places(maps.shape[2], count, seed)].transpose(1, 2).reshape(-1, y.shape[1])


def places(size: int, count: int, seed: int) -> Tensor:
    """Return some drawn numbers below ``size``, all of them where there are no more than ``count``."""
    return torch.randperm(size, generator=torch.Generator().manual_seed(seed))[:count]


def chances_of(y: Tensor) -> Tensor:
    """Return a teacher's probabilities of -1, 0 and 1, ``(rows, 3)``, of what its tanh is given, ``(rows,)``."""
    fires = y.tanh()
    return torch.stack([(-fires).clamp_min(0), 1 - fires.abs(), fires.clamp_min(0)], 1)


def thresholds(norm: _BatchNorm | None, bias: Tensor | None, outputs: int, inputs: int) -> tuple[Tensor, ...]:
    """Return which units' weights change their sign, and the thresholds of whole sums that round(tanh(norm(sum))) has.

    With y = slope * sum + offset a unit fires 1 where y > atanh(1/2). Where the slope is negative, weights and sums are
    negated, so that a pooling for the largest may stand before the thresholds or behind.

    :param norm: as it is out of training; ``None``: there is none.
    :param bias: of the layer, ``(outputs,)``.
    :param inputs: of one sum, which lies between -inputs and inputs.
    :returns: bool, and whole numbers in float64, all ``(outputs,)``.
    """
    slope, offset = torch.ones(outputs).double(), torch.zeros(outputs).double()
    offset += 0 if bias is None else bias.detach().double()
    if norm is not None:
        assert norm.running_mean is not None
        assert norm.running_var is not None
        slope = (norm.running_var.double() + norm.eps).rsqrt()
        offset = slope * (offset - norm.running_mean.double())
        if norm.affine:
            scale, shift = (norm.get_parameter(name).detach().double() for name in ("weight", "bias"))
            slope, offset = slope * scale, offset * scale + shift

    # A slope of zero fires the same for every sum: what is divided by it is infinite, with the right sign.
    flip = slope < 0
    high = torch.where(slope == 0, torch.where(offset > FIRES, -torch.inf, torch.inf), (FIRES - offset) / slope.abs())
    low = torch.where(slope == 0, torch.where(offset < -FIRES, torch.inf, -torch.inf), (-FIRES - offset) / slope.abs())
    return flip, low.ceil().clamp(-inputs - 1, inputs + 1), high.floor().clamp(-inputs - 1, inputs + 1)
