"""How layers count their channels and lose some."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

KEEP_ZEROS = (
    *("Relu", "LeakyRelu", "Prelu", "Silu", "Gelu", "Elu", "Tanh", "Hardtanh", "Hardswish"),
    *("MaxPool", "AvgPool"),
)
"""Beginnings of the names of autograd nodes that make zeros of zeros, each channel for itself."""
MOVE_CHANNELS = (
    "ConstantPad",
    "Index",
    "Gather",
    "Flip",
    "Roll",
    "Repeat",
    "PixelShuffle",
    "Unfold",
    "Slice",
    "Select",
)
"""Of those that may put a channel elsewhere, for a reason in words."""


def widths(module: nn.Module | Tensor) -> tuple[int, int]:
    """Return how many channels come in and go out, or zeros."""
    for pair in (("in_channels", "out_channels"), ("in_features", "out_features"), ("num_features",) * 2):
        if hasattr(module, pair[0]):
            return getattr(module, pair[0]), getattr(module, pair[1])
    for name in ("num_channels", "embedding_dim", "num_parameters"):
        if hasattr(module, name):
            return (getattr(module, name),) * 2
    shape = getattr(module, "normalized_shape", ())
    return (shape[-1],) * 2 if shape else (0, 0)


def is_depthwise(module: object) -> bool:
    """Tell whether a layer is a convolution with one filter for each channel."""
    return isinstance(module, _ConvNd) and module.groups == module.out_channels > 1


def has_one_slope(module: object) -> bool:
    """Tell whether a module is a PReLU with one slope for all channels: nothing of it depends on their number."""
    return isinstance(module, nn.PReLU) and module.num_parameters == 1


def is_writer(module: object) -> bool:
    """Tell whether a layer makes channels of its own."""
    return isinstance(module, _ConvNd | nn.Linear) and not is_depthwise(module)


def axis(module: nn.Module) -> int:
    """Return the axis of a layer's channels, negative."""
    if isinstance(module, _ConvNd):
        return -len(module.kernel_size) - 1
    if isinstance(module, nn.BatchNorm3d):
        return -4
    plane = isinstance(module, nn.BatchNorm2d | nn.GroupNorm) or type(module).__name__.endswith("2d")
    return -3 if plane else -1


def parts(module: object) -> int:
    """Return into how many equal groups a layer divides its channels; a depthwise convolution doesn't count."""
    if isinstance(module, _ConvNd):
        return 1 if is_depthwise(module) else module.groups
    return module.num_groups if isinstance(module, nn.GroupNorm) else 1


def unfollowed(error: Exception) -> str:
    """Return why channels can't be removed in words, where torch-pruning fails on what a net does with them."""
    why = " ".join(f"{type(error).__name__}: {error}".split())[:100]
    return f"where its channels go can't be followed ({why})"


def rest(width: int, gone: set[int]) -> Tensor:
    """Return the channels that stay, ascending, as int64."""
    return torch.tensor([i for i in range(width) if i not in gone], dtype=torch.long)


def some(channels: int, blocks: int, share: float, generator: torch.Generator) -> list[int]:
    """Return channels of each block: a random share, or the first one where that is less."""
    size = channels // blocks
    count = int(size * share)
    first = torch.zeros(1, dtype=torch.long)
    parts = [torch.randperm(size, generator=generator)[:count] if count else first for _ in range(blocks)]
    return torch.cat([part + number * size for number, part in enumerate(parts)]).tolist()


def cut_grouped(conv: _ConvNd, ins: set[int], outs: set[int]) -> None:
    """Cut a grouped convolution: the columns that stay may be others in each group, but as many."""
    rows, columns = (ins, outs) if conv.transposed else (outs, ins)
    wide = (conv.in_channels, conv.out_channels) if conv.transposed else (conv.out_channels, conv.in_channels)
    per_row, per_column = wide[0] // conv.groups, wide[1] // conv.groups

    # Each group keeps its own rows and columns; as many are left in each, so that they stack again.
    parts = []
    for number, part in enumerate(torch.split(conv.weight.detach(), per_row)):
        part = part[[i for i in range(per_row) if number * per_row + i not in rows]]
        parts.append(part[:, [i for i in range(per_column) if number * per_column + i not in columns]])
    conv.weight = nn.Parameter(torch.cat(parts))

    if conv.bias is not None:
        conv.bias = nn.Parameter(conv.bias.detach()[rest(conv.out_channels, outs)])
    conv.in_channels -= len(ins)
    conv.out_channels -= len(outs)


def cut_layer_norm(norm: nn.LayerNorm, gone: set[int]) -> None:
    """Cut the last dimension; torch-pruning's own takes the channels that stay in the order of a set."""
    kept = rest(norm.normalized_shape[-1], gone)
    norm.normalized_shape = (*norm.normalized_shape[:-1], len(kept))
    for name, held in norm.named_parameters(recurse=False):
        setattr(norm, name, nn.Parameter(held.detach()[..., kept]))
