"""What the methods share that take filters out of a net: which may go, which norm is behind them, and how they go."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from condensery import Method, NotApplicable, Stage, UsageError, Weight, hookimpl
from condensery.nets import BATCH_NORMS, CONVS
from condensery.surgery import is_depthwise
from condensery_plugins.pruning.masks import mask

NORMS = (*BATCH_NORMS, nn.GroupNorm)
"""Norms with a scale and a shift for each channel, behind convolutions."""
OUTPUTS = "its channels are the net's outputs"
"""Why a layer's channels stay: at zero they would say the same of every input, which no training can mend."""
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
Coupled = Literal["hold", "leave"]
"""What becomes of filters that a residual connection couples with other layers', so that they can't be cut for
themselves: ``hold`` those that go at zero, or ``leave`` such layers alone."""


@dataclass(eq=False, kw_only=True)
class FilterMethod(Method):
    """Takes a share of filters out of a net's convolutions; which ones, the subclass says.

    ``skip`` names layers that keep all filters. Filters that a residual connection couples with other layers' can't be
    cut out of the net: those that go are held at zero, or with ``coupled="leave"`` such layers take no part.
    """

    leaves = frozenset({"mask"})
    removes = frozenset({"dense-shape"})

    ratio: float = 0.3
    coupled: Coupled = "hold"
    skip: list[str] = dataclasses.field(default_factory=lambda: ["shortcuts"])

    def convolutions(self, stage: Stage) -> list[Weight]:
        """Return the convolutions whose filters may go, in the net's order.

        A depthwise convolution isn't one: its channels go with those of the layer before it. Nor is one that writes the
        net's outputs: what it says of a class would be gone.

        :raises NotApplicable: if there is none, or only the one that cuts an image into a Transformer's patches.
        """
        whole = {w.path: w for w in stage.weights(kinds=CONVS) if not is_depthwise(w.module)}
        kept = stage.layers(self.skip, f"{self.key}.skip", among=whole)
        found = [whole[path] for path in spare_outputs(stage, [path for path in whole if path not in kept])]

        need_filters(stage, self.key, found)
        if len(found) == 1 and embeds_patches(found[0].module):
            why = f"the only convolution, {found[0].path}, embeds patches: its filters are the net's width"
            raise NotApplicable(self.key, why)

        if self.coupled == "leave":
            free = [w for w in found if is_free(stage, w.path)]
            if not free:
                raise none_is_free(stage, self.key, found[0].path)
            found = free
        return found

    def take_out(self, stage: Stage, gone: Mapping[str, Tensor]) -> None:
        """Remove filters, and keep for the report how many of how many went.

        :param gone: bool of shape ``(filters,)`` by path of the convolution.
        """
        weights = stage.weights(kinds=CONVS).by_path
        self.filters_ = sum(int(is_there(weights[path]).sum()) for path in gone)
        self.cut_, self.held_ = remove_filters(stage, gone)

    @hookimpl
    def report(self, stage: Stage) -> dict[str, float]:
        """Return the share of filters removed, of those that were there, and the part of it cut out of the net."""
        return {
            "filters_removed_percent": 100 * (self.cut_ + self.held_) / self.filters_,
            "filters_cut_percent": 100 * self.cut_ / self.filters_,
        }


# ---------------------------------------------------------------- looking


def need_filters(stage: Stage, method: str, found: Sequence[object]) -> None:
    """Refuse a net without a convolution whose filters may go; those that keep theirs are named.

    :param method: key of the method.
    :param found: the convolutions whose filters may go.
    :raises NotApplicable: if there is none.
    """
    transposed = stage.weights(kinds=TRANSPOSED).paths
    if not found:
        also = f"; {transposed[0]!r} is a transposed one, which keeps its filters" if transposed else ""
        spared = [path for path, why in stage.left_out.items() if why == OUTPUTS]
        also += f"; {spared[0]!r} writes the net's outputs" if spared else ""
        raise NotApplicable(method, f"the net has no convolution whose filters may go{also}")
    stage.left_out |= dict.fromkeys(transposed, "a transposed convolution keeps its filters")


def embeds_patches(module: nn.Module) -> bool:
    """Tell whether a convolution reads each pixel once: kernel as large as stride, above one."""
    kernel = getattr(module, "kernel_size", (1,))
    return math.prod(kernel) > 1 and kernel == getattr(module, "stride", None)


def spare_outputs(stage: Stage, paths: Sequence[str]) -> list[str]:
    """Return the layers or norms whose channels may go; those whose channels are the net's outputs are left out.

    What isn't there to be seen, as of a net that can't be followed, may go.
    """
    known = stage.surgeon.graph.by_path
    spared = [path for path in paths if path in known and known[path].outputs]
    stage.left_out |= dict.fromkeys(spared, OUTPUTS)
    return [path for path in paths if path not in spared]


def is_free(stage: Stage, path: str) -> bool:
    """Tell whether a layer's channels can be cut, each for itself and without those of other layers."""
    group = stage.surgeon.group(path)
    return group is not None and group.reason is None and group.layers == (path,) and group.blocks == 1


def why_not_free(stage: Stage, path: str) -> str:
    """Return why a layer that isn't free can't lose channels by itself.

    :raises UsageError: with the reason of the graph, if its channels can't be cut at all.
    """
    group = stage.surgeon.graph.group(path)
    others = ", ".join(other for other in group.layers if other != path)
    return (
        f"its channels go with those of {others}" if others else f"each of its {group.blocks} parts must lose as many"
    )


def none_is_free(stage: Stage, method: str, path: str) -> NotApplicable:
    """Return the refusal of a net none of whose convolutions is free, with the reason for one of them.

    :param method: key of the method.
    :param path: of that convolution.
    """
    try:
        why = f"{path}: {why_not_free(stage, path)}"
    except UsageError as error:
        why = str(error)
    return NotApplicable(method, f"no convolution can lose filters by itself; {why}")


def is_there(weight: Weight) -> Tensor:
    """Return which filters no mask holds at zero as a whole, bool of shape ``(filters,)``."""
    return weight.alive.flatten(1).any(1)


@contextlib.contextmanager
def watching(net: nn.Module, paths: Sequence[str]) -> Iterator[dict[str, list[Tensor]]]:
    """Collect what some modules write, by path: one tensor for each call."""
    outputs: dict[str, list[Tensor]] = {path: [] for path in paths}
    handles = [
        net.get_submodule(path).register_forward_hook(lambda m, a, out, kept=kept: kept.append(out))
        for path, kept in outputs.items()
    ]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def norms_behind(stage: Stage, paths: Sequence[str], kinds: Sequence[type[nn.Module]] = BATCH_NORMS) -> dict[str, str]:
    """Return which norm reads exactly what a layer writes, by path of the layer; layers without one are left out.

    :param kinds: of norms.
    """
    read = read_by_norms(stage, paths, kinds)
    return {path: norm for norm, written in read.items() for path in written if path is not None}


def read_by_norms(stage: Stage, paths: Sequence[str], kinds: Sequence[type[nn.Module]]) -> dict[str, list[str | None]]:
    """Return what each norm reads, call by call: exactly what one of some layers writes, or anything else, ``None``.

    :param paths: of the layers.
    :param kinds: of norms.
    """
    net = stage.student.module
    wanted: tuple[type[nn.Module], ...] = tuple(kinds)
    norms = [path for path, module in net.named_modules() if isinstance(module, wanted)]
    with watching(net, paths) as outputs:
        inputs = stage.record_inputs(norms, 1) if norms else {}

    # A norm reads a layer's output if both are the same memory in the same shape. All outputs are kept until here, so
    # that no two of them had the same memory one after the other.
    written = {out.data_ptr(): (path, out.shape) for path, outs in outputs.items() for out in outs}
    found: dict[str, list[str | None]] = {norm: [] for norm in inputs}
    for norm, reads in inputs.items():
        for read in reads:
            path, shape = written.get(read.data_ptr(), ("", None))
            found[norm].append(path if read.shape == shape else None)
    return found


# ---------------------------------------------------------------- how many and which


def kept(channels: int, share: Decimal | float) -> int:
    """Return how many of some channels stay: floor(channels * share), at least one.

    In decimals, because ``int(10 * (1 - 0.9))`` is 0 in binary floats.
    """
    return max(1, int(channels * Decimal(str(share))))


def zeroed(filters: int, rate: float) -> int:
    """Return how many filters of a layer a rate zeroes: floor(filters * rate), at most all but one.

    Rounded first, because ``100 * 0.29`` is 28.999999999999996 in binary floats.
    """
    return min(filters - 1, math.floor(round(filters * rate, 6)))


def at_most(channels: int, max_share: float) -> int:
    """Return how many channels a layer may lose: floor(channels * max_share), at most all but one."""
    return max(0, min(channels - 1, int(max_share * channels + 1e-9)))


def is_on(scores: Tensor) -> Tensor:
    """Return which channels no mask holds at zero, bool.

    :param scores: ``(channels,)``, ``-inf`` for those that a mask holds.
    """
    return scores > float("-inf")


def smallest(scores: Mapping[str, Tensor], ratio: float, scope: str, max_share: float = 1.0) -> dict[str, Tensor]:
    """Return which channels go, bool of shape ``(channels,)`` by layer: a share of those still there, rounded.

    A layer's largest channel stays, and so do the largest ones beyond ``max_share`` of what it has: then fewer go.

    :param scores: ``(channels,)`` by layer; ``-inf`` marks what is off already: it neither counts nor goes.
    :param ratio: share, 0 to 1.
    :param scope: ``global`` ranks the channels of all layers together, ``local`` each layer's by themselves.
    """
    if scope == "local":
        return {path: smallest({path: s}, ratio, "global", max_share)[path] for path, s in scores.items()}

    there = [s[is_on(s)] for s in scores.values()]
    ranked = torch.cat(there)
    gone = torch.zeros(len(ranked), dtype=torch.bool, device=ranked.device)
    gone[ranked.argsort(stable=True)[: round(ratio * len(ranked))]] = True

    found = {}
    parts = torch.split(gone, [len(s) for s in there])
    for (path, score), own, goes in zip(scores.items(), there, parts, strict=True):
        goes[own.argsort(stable=True)[at_most(len(own), max_share) :]] = False
        found[path] = torch.zeros_like(score, dtype=torch.bool).masked_scatter(is_on(score), goes)
    return found


# ---------------------------------------------------------------- taking out


class Removed(NamedTuple):
    """How many filters were removed.

    :param cut: out of the net.
    :param held: at zero, because they can't be cut.
    """

    cut: int
    held: int


def remove_filters(stage: Stage, gone: Mapping[str, Tensor]) -> Removed:
    """Take filters out for good: cut them out of the net, or hold them at zero where that can't be.

    What a residual connection couples with other layers' channels can't be cut for itself.

    :param gone: bool of shape ``(filters,)`` by path of the convolution.
    """
    alone = {path: g for path, g in gone.items() if is_free(stage, path)}
    coupled = {path: g for path, g in gone.items() if path not in alone}
    hold_filters(stage, coupled)
    cut_channels(stage, alone)
    return Removed(count(alone), count(coupled))


def count(gone: Mapping[str, Tensor]) -> int:
    """Return how many channels go.

    :param gone: bool of shape ``(channels,)`` by layer.
    """
    return sum(int(g.sum()) for g in gone.values())


def cut_channels(stage: Stage, gone: Mapping[str, Tensor]) -> None:
    """Cut channels out of the net.

    :param gone: bool of shape ``(channels,)`` by path of a layer or norm that has them to itself.
    """
    stage.surgeon.remove_channels({path: g.nonzero().flatten().tolist() for path, g in gone.items()})


def hold_filters(stage: Stage, gone: Mapping[str, Tensor]) -> None:
    """Hold filters at zero by masks, with their biases, and with scale and shift of the norms behind them.

    Without a norm's shift a zero filter would still give a constant map. A norm that reads several layers' channels, or
    something else too, loses those that all of them lose.

    :param gone: bool of shape ``(filters,)`` by path of the convolution.
    """
    read = read_by_norms(stage, list(gone), NORMS)
    for tensor in ("weight", "bias"):
        for weight in stage.weights(kinds=CONVS, tensor=tensor):
            if weight.path in gone:
                keep = ~gone[weight.path].view(-1, *[1] * (weight.latent.dim() - 1))
                mask(stage, weight, keep.expand(weight.latent.shape))
    whole = {
        norm: [gone[path] for path in paths if path is not None] for norm, paths in read.items() if None not in paths
    }
    hold_norms(stage, {norm: torch.stack(lost).all(0) for norm, lost in whole.items() if lost})


def hold_norms(stage: Stage, gone: Mapping[str, Tensor]) -> None:
    """Hold scale and shift of norms at zero by masks.

    :param gone: bool of shape ``(channels,)`` by path of the norm.
    """
    for tensor in ("weight", "bias"):
        for weight in stage.weights(kinds=NORMS, tensor=tensor):
            if weight.path in gone:
                mask(stage, weight, ~gone[weight.path])
