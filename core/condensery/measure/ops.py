"""The ops of a forward pass: which multiply, and how much; which are free."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

aten = torch.ops.aten


class Product(NamedTuple):
    """Two tensors that an op multiplies, and how many multiply-accumulates that takes."""

    macs: int
    left: Tensor
    right: Tensor


Formula = Callable[[tuple[Any, ...], Any], list[Product]]
"""From an op's arguments and result to its products."""


def _matmul(first: int) -> Formula:
    """Return the formula of a matrix product whose factors are the arguments ``first`` and ``first + 1``."""

    def count(args: tuple[Any, ...], out: Any) -> list[Product]:
        left, right = args[first], args[first + 1]
        return [Product(left.numel() * (right.shape[-1] if right.dim() > 1 else 1), left, right)]

    return count


def _convolution(args: tuple[Any, ...], out: Any) -> list[Product]:
    """Count what each output (of a transposed convolution: each input) needs, zeros of the padding included."""
    x, weight, transposed = args[0], args[1], args[6]
    return [Product((x if transposed else out).numel() * weight[0].numel(), x, weight)]


def _attention(args: tuple[Any, ...], out: Any) -> list[Product]:
    """Count scores and weighted values, ``(batch, heads, length, size)`` each; a causal mask saves nothing."""
    query, key, value = args[:3]
    return [Product(query.numel() * key.shape[-2], query, key), Product(out[0].numel() * key.shape[-2], out[0], value)]


def _rnn_layer(args: tuple[Any, ...], out: Any) -> list[Product]:
    """Count one layer in one direction: at each time step both matrices are used whole."""
    x, of_input, of_state, state = args[0], args[1], args[2], args[5]
    steps = x.numel() // x.shape[-1]
    return [Product(steps * of_input.numel(), x, of_input), Product(steps * of_state.numel(), state, of_state)]


def _bilinear(args: tuple[Any, ...], out: Any) -> list[Product]:
    """Count ``x W y``: x with W of shape ``(outputs, size of x, size of y)``, then the result with y."""
    x, weight, y = args[:3]
    rows = x.numel() // x.shape[-1]
    return [Product(rows * weight.numel(), x, weight), Product(rows * weight[:, 0].numel(), out, y)]


PRODUCTS: Mapping[Any, Formula] = {
    aten.mm: _matmul(0),
    aten.bmm: _matmul(0),
    aten.mv: _matmul(0),
    aten.dot: _matmul(0),
    aten._int_mm: _matmul(0),
    aten.addmm: _matmul(1),
    aten.addmv: _matmul(1),
    aten.addbmm: _matmul(1),
    aten.baddbmm: _matmul(1),
    aten.convolution: _convolution,
    aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    aten.mkldnn_rnn_layer: _rnn_layer,
    aten._trilinear: _bilinear,
}

FREE = frozenset(
    {
        "_adaptive_avg_pool2d",
        "_adaptive_avg_pool3d",
        "_embedding_bag",
        "_local_scalar_dense",
        "_log_softmax",
        "_pack_padded_sequence",
        "_prelu_kernel",
        "_softmax",
        "_thnn_fused_gru_cell",
        "_thnn_fused_lstm_cell",
        "_to_copy",
        "_unsafe_index",
        "_unsafe_view",
        "_upsample_bicubic2d_aa",
        "_upsample_bilinear2d_aa",
        "_upsample_nearest_exact1d",
        "_upsample_nearest_exact2d",
        "_upsample_nearest_exact3d",
        "adaptive_max_pool2d",
        "as_strided_",
        "avg_pool2d",
        "avg_pool3d",
        "bernoulli",
        "bernoulli_",
        "bucketize",
        "cat",
        "channel_shuffle",
        "col2im",
        "constant_pad_nd",
        "copy_",
        "cummax",
        "cummin",
        "cumsum",
        "diag_embed",
        "embedding",
        "empty_like",
        "exponential_",
        "fill_",
        "flip",
        "fold",
        "full_like",
        "gather",
        "glu",
        "hardswish",
        "hardswish_",
        "im2col",
        "index",
        "index_add",
        "index_add_",
        "index_put",
        "index_put_",
        "index_select",
        "log_normal_",
        "log_sigmoid_forward",
        "max_pool2d_with_indices",
        "max_pool3d_with_indices",
        "max_unpool2d",
        "native_batch_norm",
        "native_dropout",
        "native_group_norm",
        "native_layer_norm",
        "new_empty",
        "new_full",
        "new_ones",
        "new_zeros",
        "nonzero",
        "normal_",
        "ones_like",
        "pixel_shuffle",
        "pixel_unshuffle",
        "rand_like",
        "randn_like",
        "random_",
        "reflection_pad1d",
        "reflection_pad2d",
        "reflection_pad3d",
        "repeat",
        "replication_pad1d",
        "replication_pad2d",
        "replication_pad3d",
        "roll",
        "rot90",
        "scatter",
        "scatter_",
        "scatter_add",
        "scatter_add_",
        "scatter_reduce",
        "scatter_reduce_",
        "searchsorted",
        "sort",
        "squeeze_",
        "stack",
        "topk",
        "transpose_",
        "tril",
        "triu",
        "uniform_",
        "unsafe_split",
        "unsqueeze_",
        "upsample_bicubic2d",
        "upsample_bilinear2d",
        "upsample_linear1d",
        "upsample_nearest1d",
        "upsample_nearest2d",
        "upsample_nearest3d",
        "upsample_trilinear3d",
        "zero_",
        "zeros_like",
    }
)
"""Ops that multiply nothing or, as norms and interpolation, are left out by convention; besides those that torch tags
as pointwise or as a reduction, views, and those that take no tensor."""

ON_BITS = frozenset({"bitwise_and", "bitwise_or", "bitwise_xor"})
"""Pointwise ops that may stand for products of many bits, packed into whole numbers."""

KEEPS = frozenset(
    {
        "_to_copy",
        "_unsafe_view",
        "adaptive_max_pool2d",
        "cat",
        "clone",
        "constant_pad_nd",
        "embedding",
        "flip",
        "gather",
        "index",
        "index_select",
        "max_pool2d_with_indices",
        "max_pool3d_with_indices",
        "relu",
        "relu_",
        "repeat",
        "roll",
        "stack",
    }
)
"""Ops that leave values as they are, moved or dropped: a quantized tensor is still as narrow behind them."""


def is_free(func: Any, tensors: list[Tensor]) -> bool:
    """Tell whether an op does no multiplication that counts.

    :param tensors: among its arguments.
    """
    tags, name = func.tags, func.overloadpacket.__name__
    if any(t.layout is not torch.strided for t in tensors):
        return False
    if name.rstrip("_") in ON_BITS and any(t.dtype != torch.bool for t in tensors):
        return False
    free = func.is_view or torch.Tag.pointwise in tags or torch.Tag.reduction in tags
    own = func.namespace == "profiler" or (func.namespace == "aten" and (not tensors or name in FREE))
    return free or own
