"""What the filter-pruning methods share: which filters may go, the norms behind them, and taking them out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from torch import Tensor, nn

from condensery.errors import NotApplicable
from condensery.nets import BATCH_NORMS, CONVS, Weight
from condensery.run import Stage
from condensery_plugins.pruning.masks import mask

SHORTCUTS = ("downsample", "shortcut")
"""Parts of a path that mark the projection of a shortcut."""

Coupled = Literal["hold", "leave"]
"""What becomes of filters that a residual connection couples with other layers', so that they can't be cut for
themselves: ``hold`` those that go at zero, or ``leave`` such layers alone."""


def filter_layers(stage: Stage, method: str, skip: Sequence[str], coupled: Coupled = "hold") -> list[Weight]:
    """Return the convolutions whose filters may go, in the net's order.

    A depthwise convolution isn't one: its channels go with those of the layer before it.

    :param skip: parts of a path; ``downsample`` leaves out ``layer2.0.downsample.0``.
    :param coupled: whether layers take part whose filters can only be held at zero.
    :raises NotApplicable: if there is none, or only the one that cuts an image into a Transformer's patches.
    """
    whole = [w for w in stage.weights(kinds=CONVS) if not is_depthwise(w.module)]
    found = [w for w in whole if not set(w.path.split(".")) & set(skip)]
    if not found:
        raise NotApplicable(method, "the net has no convolution whose filters may go")
    only = found[0]
    if len(found) == 1 and embeds_patches(only.module):
        raise NotApplicable(
            method, f"the only convolution, {only.path}, embeds patches: its filters are the net's width"
        )
    if coupled == "leave":
        found = [w for w in found if is_free(stage, w.path)]
        if not found:
            raise NotApplicable(method, "shortcuts couple the filters of every convolution with other layers'")
    return found


def is_depthwise(module: nn.Module) -> bool:
    """Tell whether a convolution has a group of its own for each channel."""
    groups = int(getattr(module, "groups", 1))
    return groups > 1 and groups == getattr(module, "in_channels", 0)


def embeds_patches(module: nn.Module) -> bool:
    """Tell whether a convolution reads each pixel once: kernel as large as stride, above one."""
    kernel = getattr(module, "kernel_size", (1,))
    return math.prod(kernel) > 1 and kernel == getattr(module, "stride", None)


def norms_behind(stage: Stage, paths: Sequence[str], kinds: Sequence[type[nn.Module]] = BATCH_NORMS) -> dict[str, str]:
    """Return which norm reads exactly what a layer writes, by path of the layer; layers without one are left out.

    :param kinds: of norms.
    """
    net = stage.student.module
    wanted: tuple[type[nn.Module], ...] = tuple(kinds)
    norms = [p for p, m in net.named_modules() if isinstance(m, wanted)]
    written: dict[int, tuple[str, Tensor]] = {}  # holds the outputs, so that no other tensor gets their memory

    def note(path: str, output: Tensor) -> None:
        written[output.data_ptr()] = (path, output)

    handles = [net.get_submodule(p).register_forward_hook(lambda m, a, out, p=p: note(p, out)) for p in paths]
    inputs = stage.record_inputs(norms, 1) if norms else {}
    for handle in handles:
        handle.remove()
    return {
        written[read.data_ptr()][0]: norm
        for norm, reads in inputs.items()
        for read in reads
        if read.data_ptr() in written and written[read.data_ptr()][1].shape == read.shape
    }


def zeroed(filters: int, rate: float) -> int:
    """Return how many filters of a layer a rate zeroes: floor(filters * rate), at most all but one.

    Rounded first, because ``100 * 0.29`` is 28.999999999999996 in binary floats.
    """
    return min(filters - 1, math.floor(round(filters * rate, 6)))


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
    alone = {p: g for p, g in gone.items() if is_free(stage, p)}
    coupled = {p: g for p, g in gone.items() if p not in alone}
    hold_filters(stage, coupled)
    stage.surgeon.remove_channels({p: g.nonzero().flatten().tolist() for p, g in alone.items()})
    return Removed(_count(alone), _count(coupled))


def is_free(stage: Stage, path: str) -> bool:
    """Tell whether a convolution's channels can be cut, each for itself and without those of other layers."""
    group = stage.surgeon.group(path)
    return group is not None and group.reason is None and group.layers == (path,) and group.blocks == 1


def _count(gone: Mapping[str, Tensor]) -> int:
    return sum(int(g.sum()) for g in gone.values())


def hold_filters(stage: Stage, gone: Mapping[str, Tensor]) -> None:
    """Hold filters at zero by masks, with their biases, and with scale and shift of the norm behind them.

    Without the norm's shift a zero filter would still give a constant map.
    """
    behind = norms_behind(stage, list(gone))
    for tensor in ("weight", "bias"):
        for weight in stage.weights(kinds=CONVS, tensor=tensor):
            if weight.path in gone:
                keep = ~gone[weight.path].view(-1, *[1] * (weight.latent.dim() - 1))
                mask(stage, weight, keep.expand(weight.latent.shape))
        norms = {behind[p]: g for p, g in gone.items() if p in behind}
        for weight in stage.weights(kinds=BATCH_NORMS, tensor=tensor):
            if weight.path in norms:
                mask(stage, weight, ~norms[weight.path])


def is_there(weight: Weight) -> Tensor:
    """Return which filters no mask holds at zero as a whole, bool of shape ``(filters,)``."""
    return weight.alive.flatten(1).any(1)
