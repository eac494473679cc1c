"""A convolution as a product of thinner dense matrices, and the mask that becomes one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from condensery import Layer, Stage, Weight
from condensery.nets import stack_of
from condensery_plugins.pruning.masks import Mask, mask
from condensery_plugins.pruning.weight_groups import grouped

PAD_MODES = {"zeros": "constant"}
"""What :func:`torch.nn.functional.pad` calls a convolution's padding modes, where the names differ."""


class ThinnedConv2d(Layer):
    """A convolution that multiplies only the columns of the patch matrix that its filters read.

    A column is an input channel and a position in the kernel. In each convolution group all filters read the same
    columns; filters that read none give zeros, plus their bias. Only the weights of what is left are stored.

    :param geometry: of the convolution: ``out_channels``, ``kernel_size``, ``stride``, ``dilation``, ``padding`` (left,
        right, top, bottom; pixels) and ``padding_mode``.
    :param kept: by convolution group, how many filters and how many columns are left.
    :param bias: whether it has one.
    """

    key = "thinned-conv2d"
    columns: Tensor
    """The columns that are left, counted over all convolution groups: int64, ``(columns,)``."""
    sources: Tensor
    """By filter, its row of the products, the one behind the last if it has gone: int64, ``(filters,)``."""

    def __init__(self, geometry: Mapping[str, Any], kept: list[list[int]], bias: bool) -> None:
        super().__init__()
        self.geometry = dict(geometry)
        self.kept = [list(pair) for pair in kept]

        outputs = int(self.geometry["out_channels"])
        self.weight = nn.Parameter(torch.zeros(sum(rows * columns for rows, columns in self.kept)))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.register_buffer("columns", torch.zeros(sum(c for _, c in self.kept), dtype=torch.int64))
        self.register_buffer("sources", torch.zeros(outputs, dtype=torch.int64))

    @classmethod
    def of(cls, conv: nn.Conv2d, values: Tensor, rows: Tensor, columns: Tensor) -> Self:
        """Return the layer that computes what a convolution does.

        :param values: its weights as they are used, ``(filters of all convolution groups, inputs, height, width)``.
        :param rows: which filters are left: bool, ``(convolution groups, filters)``.
        :param columns: which columns are left: bool, ``(convolution groups, inputs * positions)``.
        """
        geometry = {
            "out_channels": conv.out_channels,
            "kernel_size": list(conv.kernel_size),
            "stride": list(conv.stride),
            "dilation": list(conv.dilation),
            "padding": list(conv._reversed_padding_repeated_twice),
            "padding_mode": conv.padding_mode,
        }
        kept = list(zip(rows.sum(1).tolist(), columns.sum(1).tolist(), strict=True))
        made = cls(geometry, [list(pair) for pair in kept], conv.bias is not None).to(values.device, values.dtype)

        matrices = grouped(conv, values).flatten(2)
        parts = [m[r][:, c].flatten() for m, r, c in zip(matrices, rows, columns, strict=True)]
        numbers = rows.flatten().cumsum(0) - 1
        with torch.no_grad():
            made.get_parameter("weight").copy_(torch.cat(parts))
            made.columns.copy_(columns.flatten().nonzero().flatten())
            made.sources.copy_(numbers.where(rows.flatten(), rows.sum()))
            if made.bias is not None:
                made.bias.copy_(conv.bias)  # type: ignore[arg-type]
        return made

    def config(self) -> dict[str, Any]:
        """Return what the constructor takes."""
        return {"geometry": self.geometry, "kept": self.kept, "bias": self.bias is not None}

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs, ``(batch, filters, height, width)``.

        :param x: ``(batch, channels, height, width)``.
        """
        batch = x.shape[0]  # len(x) would be a constant to torch.export
        mode, padding = self.geometry["padding_mode"], self.geometry["padding"]
        if any(padding):
            x = functional.pad(x, padding, PAD_MODES.get(mode, mode))
        patches = self._patches(x)
        high, wide = patches.shape[2:]

        weights = torch.split(self.weight, [rows * columns for rows, columns in self.kept])
        parts = torch.split(patches.flatten(2), [columns for _, columns in self.kept], 1)
        # Not @, which chooses between two products, with other roundings, by whether a weight wants a gradient.
        matrices = [w.view(1, *size).expand(batch, *size) for w, size in zip(weights, self.kept, strict=True)]
        products = [torch.bmm(matrix, part) for matrix, part in zip(matrices, parts, strict=True)]
        out = products[0] if len(products) == 1 else torch.cat(products, 1)

        if out.shape[1] < len(self.sources):  # the last row is that of the filters which have gone
            none = torch.zeros(batch, 1, high * wide, dtype=out.dtype, device=out.device)
            out = torch.cat([out, none], 1).index_select(1, self.sources)
        if self.bias is not None:
            out = out + self.bias[:, None]
        return out.view(batch, -1, high, wide)

    def _patches(self, x: Tensor) -> Tensor:
        """Return the columns that are read, ``(batch, columns, height, width)``; the others are never made.

        :param x: padded inputs, ``(batch, channels, height, width)``.
        """
        # A view of all patches: (batch, channels, height, width, kernel height, kernel width).
        for axis in (0, 1):
            dilation = self.geometry["dilation"][axis]
            reach = dilation * (self.geometry["kernel_size"][axis] - 1) + 1
            x = x.unfold(axis + 2, reach, self.geometry["stride"][axis])[..., ::dilation]

        high, wide = self.geometry["kernel_size"]
        rows = torch.div(self.columns, wide, rounding_mode="floor")  # of all channels' kernels
        channels = torch.div(rows, high, rounding_mode="floor")
        return x.permute(0, 1, 4, 5, 2, 3)[:, channels, rows % high, self.columns % wide]


class ThinningMask(Mask):
    """Holds whole columns of a convolution over two dimensions at zero, for all filters alike; whole filters too.

    When the recipe ends the convolution becomes a :class:`ThinnedConv2d`, unless no column has gone, another method
    has masked single weights as well, or a quantizer holds the weights: then zeros are left out of the file.
    """

    key = "thinning-mask"

    def bake(self, owner: nn.Module) -> nn.Module | None:
        """Return the thinned layer, or ``None`` where the mask stays one."""
        stack = stack_of(owner, "weight")
        if parametrize.type_before_parametrizations(owner) is not nn.Conv2d or stack is None:
            return None
        assert isinstance(owner, nn.Conv2d)

        # Thin where what is left is a product of rows and columns, and nothing else acts on the weights.
        keep = grouped(owner, self.keep).flatten(2)
        rows, columns = keep.any(2), keep.any(1)
        thin = bool((~columns).any()) and torch.equal(keep, rows[:, :, None] & columns[:, None])
        if not thin or list(stack.transforms.values()) != [self]:
            return None
        return ThinnedConv2d.of(owner, getattr(owner, "weight").detach(), rows, columns)  # noqa: B009


def thin(stage: Stage, weight: Weight, keep: Tensor) -> None:
    """Hold a weight of the student at zero where ``keep`` is false; a Conv2d gets a mask that can become thinner.

    It takes the place of a plain mask that is there, unless that one's indices have a set width.

    :param keep: bool, of the weight's shape.
    """
    if isinstance(weight.module, nn.Conv2d):
        transforms = weight.stack.transforms if weight.stack is not None else nn.ModuleDict()
        held = {name: t for name, t in transforms.items() if isinstance(t, Mask)}
        if not held:
            stage.attach(weight.name, "mask", ThinningMask(weight.latent.shape))

        for name, earlier in held.items():
            if type(earlier) is Mask and earlier.index_bits is None:
                transforms[name] = ThinningMask(earlier.keep.shape).to(earlier.keep.device)
                transforms[name].keep = earlier.keep

    mask(stage, weight, keep)
