from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence, pad_packed_sequence

from condensery import Batch, UsageError
from condensery.tasks import channels_last, full_precision, head, lay_channels_last, map_tensors, tensors_in


def numbers(*shape: int) -> Tensor:
    return torch.arange(torch.Size(shape).numel()).view(shape).float()


SIX = numbers(6, 2)
TREES: dict[str, tuple[Any, Any]] = {
    "tensor": (SIX, SIX[2:4]),
    "tuple": ((SIX, numbers(6)), (SIX[2:4], numbers(6)[2:4])),
    "dict": ({"a": SIX, "name": "six", "none": None}, {"a": SIX[2:4], "name": "six", "none": None}),
    "list": (["a", "b", "c", "d", "e", "f"], ["c", "d"]),
    "list of examples": ([{"boxes": numbers(n, 4)} for n in range(6)], [{"boxes": numbers(n, 4)} for n in (2, 3)]),
    "nested": ({"x": (SIX, {"y": numbers(6, 1)})}, {"x": (SIX[2:4], {"y": numbers(6, 1)[2:4]})}),
    "scalar beside": ((torch.tensor(3.0), SIX), (torch.tensor(3.0), SIX[2:4])),
}


def same(left: Any, right: Any) -> bool:
    if isinstance(left, Tensor):
        return torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[k], right[k]) for k in left)
    if isinstance(left, (list, tuple)):
        return type(left) is type(right) and len(left) == len(right) and all(map(same, left, right))
    return bool(left == right)


@pytest.mark.parametrize("kind", TREES)
@pytest.mark.parametrize("where", ["inputs", "labels", "both"])
def test_size_part_and_device_of_every_tree(kind: str, where: str) -> None:
    tree, part = TREES[kind]
    batch = Batch(None if where == "labels" else tree, None if where == "inputs" else tree)
    assert batch.size == 6
    cut = batch.part(2, 4)
    assert same(cut.inputs, None if where == "labels" else part)
    assert same(cut.labels, None if where == "inputs" else part)
    moved = batch.to("cpu")
    assert same((moved.inputs, moved.labels), (batch.inputs, batch.labels))


def test_packed_sequences_keep_their_examples_in_order() -> None:
    rows = [numbers(n, 2) + 10 * n for n in (3, 1, 5, 2)]
    batch = Batch({"x": pack_sequence(rows, enforce_sorted=False)}, torch.arange(4))
    assert batch.size == 4
    part = batch.part(1, 3)
    padded, lengths = pad_packed_sequence(part.inputs["x"], batch_first=True)
    assert lengths.tolist() == [1, 5]
    assert torch.equal(padded[0, :1], rows[1])
    assert torch.equal(padded[1], rows[2])
    assert part.labels.tolist() == [1, 2]
    assert isinstance(batch.to("cpu").inputs["x"], PackedSequence)


def test_a_batch_without_anything_to_count_says_so() -> None:
    with pytest.raises(UsageError, match="a batch of str has neither a tensor nor a list to count"):
        _ = Batch("words").size


def test_functions_reach_the_tensors_and_nothing_else() -> None:
    packed = pack_sequence([numbers(3), numbers(1)])
    tree = {"a": SIX, "b": ("text", packed), "n": torch.tensor([1, 2])}
    twice = map_tensors(lambda tensor: 2 * tensor, tree)
    assert torch.equal(twice["a"], 2 * SIX)
    assert twice["b"][0] == "text"
    assert torch.equal(twice["b"][1].data, 2 * packed.data)
    assert torch.equal(twice["b"][1].batch_sizes, packed.batch_sizes)
    assert len(tensors_in(tree)) == 3
    exact = full_precision({"half": SIX.bfloat16(), "whole": torch.tensor([1])})
    assert (exact["half"].dtype, exact["whole"].dtype) == (torch.float32, torch.int64)


def test_images_are_laid_out_with_their_channels_last() -> None:
    laid = channels_last({"image": numbers(2, 3, 4, 4), "mask": numbers(2, 9)})
    assert laid["image"].is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(laid["image"], numbers(2, 3, 4, 4))


def test_a_net_with_a_tensor_of_five_dims_is_laid_out_too() -> None:
    """The kernel of a 3D convolution stays as it is, where ``net.to`` fails; nothing changes its values."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv3d(3, 4, 3))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    lay_channels_last(net)
    flat, deep = net.get_parameter("0.weight"), net.get_parameter("1.weight")
    assert flat.is_contiguous(memory_format=torch.channels_last)
    assert not flat.is_contiguous()
    assert deep.is_contiguous()
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize(
    "outputs",
    [
        SIX,
        (SIX, numbers(6)),
        [SIX, numbers(6)],
        {"aux": numbers(6), "logits": SIX},
        {"out": SIX, "aux": 1},
        ((SIX,), 2),
    ],
)
def test_the_head_of_several_outputs(outputs: Any) -> None:
    assert torch.equal(head(outputs), SIX)


def test_outputs_without_a_tensor_are_refused_in_words() -> None:
    with pytest.raises(UsageError, match=r"the net gives str without a tensor; let the task's outputs\(\) find one"):
        head("nothing")
