"""Trees: what a task gives to a net, asks of it and gets from it.

A tree is a tensor, a packed sequence, or a tuple, list or dict of trees. What else stands in it (strings, numbers,
``None``, objects of a task's own) is handed on as it is. Two kinds of container mean two things: the tensors of a tuple
or a dict each hold the whole batch, in dimension 0; a list has one entry for each example.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map

from condensery.errors import UsageError

HALF = (torch.float16, torch.bfloat16)


def map_tree(function: Callable[[Any], Any], tree: Any) -> Any:
    """Return a tree of the same form with a function applied to each leaf; a packed sequence is one leaf."""
    return tree_map(function, tree, is_leaf=_packed)


def map_tensors(function: Callable[[Tensor], Tensor], tree: Any) -> Any:
    """Return a tree with a function applied to each tensor, in packed sequences to their values."""

    def one(leaf: Any) -> Any:
        if isinstance(leaf, PackedSequence):
            return leaf._replace(data=function(leaf.data))
        return function(leaf) if isinstance(leaf, Tensor) else leaf

    # Most trees are one tensor, and the way through torch's trees takes as long as a small layer.
    return function(tree) if isinstance(tree, Tensor) else map_tree(one, tree)


def full_precision(tree: Any) -> Any:
    """Return a tree whose floats are float32 or float64, so that no loss or figure is taken in half precision."""
    return map_tensors(lambda tensor: tensor.float() if tensor.dtype in HALF else tensor, tree)


def tensors_in(tree: Any) -> list[Tensor]:
    """Return the tensors of a tree in its order, of packed sequences their values."""
    leaves = (leaf.data if isinstance(leaf, PackedSequence) else leaf for leaf in tree_leaves(tree, is_leaf=_packed))
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


def hash_tree(tree: Any) -> str:
    """Return a hash of a tree: of the types, shapes and bytes of its tensors, and of all else as it is written."""
    leaves, form = tree_flatten(tree, is_leaf=_packed)
    found = hashlib.sha256(str(form).encode())
    for leaf in leaves:
        for part in leaf if isinstance(leaf, PackedSequence) else (leaf,):
            if isinstance(part, Tensor):
                found.update(f"{part.dtype} {tuple(part.shape)} ".encode())
                found.update(part.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
            else:
                found.update(repr(part).encode())
    return found.hexdigest()


def head(outputs: Any) -> Tensor:
    """Return the tensor that counts where a net has several outputs: ``logits`` of a dict, else the first one.

    :raises UsageError: if there is no tensor.
    """
    if isinstance(outputs, Mapping) and "logits" in outputs:
        outputs = outputs["logits"]
    if isinstance(outputs, Tensor):
        return outputs
    found = tensors_in(outputs)
    if not found:
        raise UsageError(f"the net gives {type(outputs).__name__} without a tensor; let the task's outputs() find one")
    return found[0]


def examples_in(tree: Any) -> int | None:
    """Return how many examples a tree holds, ``None`` where nothing in it tells."""
    if isinstance(tree, PackedSequence):
        return int(tree.batch_sizes[0])
    if isinstance(tree, Tensor):
        return tree.shape[0] if tree.dim() else None
    if isinstance(tree, list):
        return len(tree)

    parts = tree.values() if isinstance(tree, Mapping) else tree if isinstance(tree, tuple) else ()
    return next((size for part in parts if (size := examples_in(part)) is not None), None)


def take_examples(tree: Any, start: int, stop: int) -> Any:
    """Return the examples ``start`` to ``stop`` of a tree."""

    def one(leaf: Any) -> Any:
        if isinstance(leaf, PackedSequence):
            padded, lengths = pad_packed_sequence(leaf, batch_first=True)
            chosen = lengths[start:stop]
            rows = padded[start:stop, : int(chosen.max())]
            return pack_padded_sequence(rows, chosen, batch_first=True, enforce_sorted=False)
        return leaf[start:stop] if isinstance(leaf, list) or (isinstance(leaf, Tensor) and leaf.dim()) else leaf

    return tree_map(one, tree, is_leaf=lambda node: _packed(node) or isinstance(node, list))


def channels_last(tree: Any) -> Any:
    """Return a tree whose 4-dim tensors, ``(batch, channels, height, width)``, lie in memory with the channels last."""

    def one(tensor: Tensor) -> Tensor:
        return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor

    return map_tensors(one, tree)


def lay_channels_last(net: nn.Module) -> None:
    """Lay a net's 4-dim tensors in memory with the channels last.

    Not by ``net.to(memory_format=torch.channels_last)``, which fails at a tensor of 5 dims, a basis or a kernel in 3D.
    """
    for tensor in (*net.parameters(), *net.buffers()):
        tensor.data = channels_last(tensor.data)


def _packed(node: Any) -> bool:
    return isinstance(node, PackedSequence)
