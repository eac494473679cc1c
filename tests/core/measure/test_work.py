from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.core.helpers import Inputs
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils.flop_counter import FlopCounterMode

from condensery import Registry, Transform, UsageError
from condensery.measure import count_work, no_fast_path
from condensery.nets import MASK, QUANTIZE, Counted, Layer, attach, build_net
from condensery.recipe import ModelSpec, TaskSpec
from condensery.tasks import build_task


class Half(Transform):
    """Holds every second entry at zero."""

    rank = MASK

    def forward(self, value: Tensor) -> Tensor:
        keep = torch.arange(value.numel()).view_as(value) % 2 == 0
        return torch.where(keep, value, torch.zeros(()))


class Grid(Transform):
    """Rounds to whole numbers; sorting and multiplying matrices on the way there is no work of the net."""

    rank = QUANTIZE

    def __init__(self, bits: int | None) -> None:
        super().__init__()
        self.bits = bits

    def forward(self, value: Tensor) -> Tensor:
        flat = value.flatten()[:, None]
        _ = flat.T @ flat, flat.msort()
        return value.round() + 1.0


class Call(nn.Module):
    """A net that is one function."""

    def __init__(self, call: Callable[..., Tensor]) -> None:
        super().__init__()
        self.call = call

    def forward(self, *args: Tensor) -> Tensor:
        return self.call(*args)


class First(nn.Module):
    """The first result of a net that returns several; the same input goes to all its arguments."""

    def __init__(self, net: nn.Module, inputs: int = 1) -> None:
        super().__init__()
        self.net, self.inputs = net, inputs

    def forward(self, x: Tensor) -> Tensor:
        out = self.net(*[x] * self.inputs)
        return out[0] if isinstance(out, tuple) else out  # type: ignore[no-any-return]


class Sequences(nn.Module):
    """A recurrent layer on packed sequences."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        packed = pack_padded_sequence(x, torch.full((x.shape[1],), len(x)), enforce_sorted=False)
        return pad_packed_sequence(self.net(packed)[0])[0]


def fixed(*shape: int) -> Inputs:
    """A task whose batch is one tensor of this shape."""
    return Inputs(lambda n: torch.randn(shape))


def nonzero(net: nn.Module) -> nn.Module:
    """Give a net weights none of which is zero by chance."""
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.rand_like(parameter) + 0.5)
    return net


LSTM = 5 * (4 * 3 * 7 + 4 * 3 * 3)
"""Five steps; four gates of 3 units, from 7 inputs and from 3 states."""
ATTENTION = 5 * 8 * 24 + 2 * (2 * 5 * 5 * 4) + 5 * 8 * 8
"""Queries, keys and values of 5 tokens of 8; scores and weighted values in 2 heads of 4; the output's projection."""
COUNTS: list[tuple[str, nn.Module, tuple[int, ...], int]] = [
    ("linear", nn.Linear(6, 4), (1, 6), 6 * 4),
    ("linear on tokens", nn.Linear(6, 4), (1, 5, 6), 5 * 6 * 4),
    ("conv", nn.Conv2d(3, 4, 3, padding=1), (1, 3, 5, 5), 5 * 5 * 4 * 3 * 9),
    ("strided conv", nn.Conv2d(3, 4, 3, 2), (1, 3, 7, 7), 3 * 3 * 4 * 3 * 9),
    ("depthwise conv", nn.Conv2d(4, 4, 3, groups=4), (1, 4, 5, 5), 3 * 3 * 4 * 9),
    ("conv of one dimension", nn.Conv1d(3, 4, 3), (1, 3, 10), 8 * 4 * 3 * 3),
    ("transposed conv", nn.ConvTranspose2d(3, 4, 3), (1, 3, 5, 5), 5 * 5 * 3 * 4 * 9),
    ("lstm", First(nn.LSTM(7, 3)), (5, 1, 7), LSTM),
    ("lstm, both directions", First(nn.LSTM(7, 3, bidirectional=True)), (5, 1, 7), 2 * LSTM),
    ("lstm, two layers", First(nn.LSTM(7, 3, 2)), (5, 1, 7), LSTM + 5 * (4 * 3 * 3 + 4 * 3 * 3)),
    ("lstm, projected", First(nn.LSTM(7, 3, proj_size=2)), (5, 1, 7), 5 * (4 * 3 * 7 + 4 * 3 * 2 + 3 * 2)),
    ("gru", First(nn.GRU(7, 3)), (5, 1, 7), 5 * (3 * 3 * 7 + 3 * 3 * 3)),
    ("rnn", First(nn.RNN(7, 3)), (5, 1, 7), 5 * (3 * 7 + 3 * 3)),
    ("packed lstm, two layers", Sequences(nn.LSTM(7, 3, 2)), (5, 1, 7), LSTM + 5 * (4 * 3 * 3 + 4 * 3 * 3)),
    ("packed gru", Sequences(nn.GRU(7, 3)), (5, 1, 7), 5 * (3 * 3 * 7 + 3 * 3 * 3)),
    ("lstm cell", First(nn.LSTMCell(7, 3)), (1, 7), 4 * 3 * 7 + 4 * 3 * 3),
    ("gru cell", nn.GRUCell(7, 3), (1, 7), 3 * 3 * 7 + 3 * 3 * 3),
    ("bilinear", First(nn.Bilinear(7, 7, 4), 2), (1, 7), 4 * 7 * 7 + 4 * 7),
    ("attention", First(nn.MultiheadAttention(8, 2, batch_first=True), 3), (1, 5, 8), ATTENTION),
    (
        "transformer layer",
        nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
        (1, 5, 8),
        ATTENTION + 2 * 5 * 8 * 16,
    ),
    ("einsum", Call(lambda x: torch.einsum("bij,bkj->bik", x, x)), (1, 3, 4), 3 * 4 * 3),
    ("matrix by vector", Call(lambda x: x @ x[0]), (3, 4), 3 * 4),
    ("dot", Call(lambda x: x @ x), (4,), 4),
    ("baddbmm", Call(lambda x: torch.baddbmm(x, x, x)), (2, 3, 3), 2 * 27),
    ("addbmm", Call(lambda x: torch.addbmm(x[0], x, x)), (2, 3, 3), 2 * 27),
    ("pooling and norms", nn.Sequential(nn.BatchNorm2d(3), nn.MaxPool2d(2), nn.GroupNorm(1, 3)), (1, 3, 4, 4), 0),
]


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize(("net", "shape", "macs"), [c[1:] for c in COUNTS], ids=[c[0] for c in COUNTS])
def test_macs_by_hand(net: nn.Module, shape: tuple[int, ...], macs: int) -> None:
    net = nonzero(net)
    work = count_work(fixed(*shape), net)
    assert work.macs == work.effective_macs == macs
    assert work.bitops == macs * 32 * 32


@pytest.mark.parametrize("heads", [(2, 2), (4, 2)], ids=["as many", "shared"])
def test_attention_counts_scores_and_values(heads: tuple[int, int]) -> None:
    """Two products of (heads, 5 queries, 7 keys, size 4), also where queries share keys."""
    mine, theirs = heads
    key = torch.randn(1, theirs, 7, 4)

    def attend(query: Tensor) -> Tensor:
        return functional.scaled_dot_product_attention(query, key, key, enable_gqa=mine != theirs)

    assert count_work(fixed(1, mine, 5, 4), Call(attend)).macs == 2 * mine * 5 * 7 * 4


def test_integer_matrix_products() -> None:
    """(32, 16) by (16, 8), 8 bits each."""
    weight = torch.ones(16, 8, dtype=torch.int8)
    task = Inputs(lambda n: torch.ones(32, 16, dtype=torch.int8))
    work = count_work(task, Call(lambda x: torch._int_mm(x, weight)))
    assert work.macs == 32 * 16 * 8
    assert work.bitops == work.macs * 8 * 8


def test_an_unknown_op_is_named_even_if_the_net_hides_its_errors() -> None:
    def call(x: Tensor) -> Tensor:
        try:
            return torch.view_as_real(torch.fft.rfft(x))
        except UsageError:
            return x

    with pytest.raises(UsageError, match=r"MACs of Call can't be counted: unknown op aten\._fft_r2c"):
        count_work(fixed(1, 8), Call(call))


@pytest.mark.parametrize("key", ["resnet8", "vgg16-bn", "lenet-5", "timm/swin_tiny_patch4_window7_224"])
def test_nets_without_fused_attention_agree_with_torch(key: str) -> None:
    registry = Registry.open()
    task = build_task(TaskSpec(key="cifar10"), registry)
    config = {"img_size": 32, "window_size": 2, "patch_size": 2, "depths": [1, 1]} if "swin" in key else {}
    net = build_net(ModelSpec.model_validate({"key": key, **config}), task.facts, registry, 0).eval()
    with torch.no_grad(), no_fast_path(), FlopCounterMode(display=False) as counter:
        net(task.example(1))
    assert count_work(task, net).macs == counter.get_total_flops() // 2


def test_resnet20_by_hand() -> None:
    """He et al., section 4.2: 19 convolutions of 3x3 on 32, 16 and 8 pixels, and the classifier."""
    registry = Registry.open()
    task = build_task(TaskSpec(key="cifar10"), registry)
    net = build_net(ModelSpec(key="resnet20"), task.facts, registry, 0)
    first = 3 * 16 * 9 * 32**2
    stages = 6 * 16 * 16 * 9 * 32**2 + (16 + 5 * 32) * 32 * 9 * 16**2 + (32 + 5 * 64) * 64 * 9 * 8**2
    assert count_work(task, net).macs == first + stages + 64 * 10 == 40_551_040


def test_masked_weights_do_no_effective_work() -> None:
    """A conv of 2 to 3 channels: 54 weights, half of them zero, on 4x4 pixels; a linear layer of 48 to 5."""
    net = nonzero(nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(48, 5)))
    attach(net, "0.weight", "mask", Half())
    with torch.no_grad():
        net.get_parameter("3.weight")[1:] = 0
    conv, linear = count_work(fixed(1, 2, 4, 4), net).layers
    assert conv.moved_bytes == 4 * (54 + 32 + 48)  # 3 x 4 x 4 outputs of 2 x 4 x 4 numbers
    assert (conv.path, conv.kind, conv.macs, conv.effective_macs) == ("0", "Conv2d", 54 * 16, 27 * 16)
    assert (linear.path, linear.kind, linear.macs, linear.effective_macs) == ("3", "Linear", 240, 48)


def test_weights_are_found_however_they_are_used() -> None:
    """Half the weights of an attention and of an LSTM are zero; what multiplies activations stays dense."""
    attention = nonzero(nn.MultiheadAttention(8, 2, batch_first=True))
    lstm = nonzero(nn.LSTM(7, 3))
    with torch.no_grad():
        attention.get_parameter("in_proj_weight")[::2] = 0
        lstm.get_parameter("weight_hh_l0")[::2] = 0
    work = count_work(fixed(1, 5, 8), First(attention, 3))
    assert work.effective_macs == 5 * 8 * 12 + 2 * (2 * 5 * 5 * 4) + 5 * 8 * 8
    assert count_work(fixed(5, 1, 7), First(lstm)).effective_macs == 5 * (4 * 3 * 7 + 4 * 3 * 3 // 2)


def test_a_buffer_that_is_overwritten_with_activations_is_no_weight() -> None:
    class Cache(nn.Module):
        cache: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("cache", torch.zeros(4, 4))

        def forward(self, x: Tensor) -> Tensor:
            before = x @ self.cache
            self.cache.copy_(x.T @ x)
            after: Tensor = x @ self.cache
            return before + after

    work = count_work(fixed(1, 4), Cache())
    assert work.macs == 16 + 16 + 16
    assert work.effective_macs == 0 + 16 + 16


def test_bit_operations_by_hand() -> None:
    """6 to 4 with weights of 3 bits and inputs of 5; then 4 to 2 with weights of 4 bits and 32 bit inputs."""
    net = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 2))
    attach(net, "0.weight", "grid", Grid(3))
    attach(net, "0.weight", "mask", Half())
    attach(net, "0:input", "grid", Grid(5))
    attach(net, "1.weight", "grid", Grid(4))
    first, second = count_work(fixed(1, 6), net).layers
    assert (first.macs, first.effective_macs, first.bits, first.bitops) == (24, 12, ((3, 5),), 24 * 15)
    assert (second.macs, second.bits, second.bitops) == (8, ((4, 32),), 8 * 4 * 32)
    # Weights of 24 x 3 and 8 x 4 bits; inputs and outputs are floats in memory, whatever values they hold.
    assert (first.moved_bytes, second.moved_bytes) == (9 + 24 + 16, 4 + 16 + 8)


def test_a_transform_that_says_no_width_leaves_it() -> None:
    net = nn.Sequential(nn.Linear(6, 4))
    attach(net, "0.weight", "grid", Grid(None))
    (layer,) = count_work(fixed(1, 6), net).layers
    assert layer.bits == ((32, 32),)


@pytest.mark.parametrize(
    ("between", "bits"),
    [(nn.Sequential(nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()), 2), (nn.Sequential(nn.Flatten(), nn.Sigmoid()), 32)],
    ids=["moved", "computed"],
)
def test_an_output_stays_narrow_until_it_is_computed_with(between: nn.Module, bits: int) -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 1), between, nn.LazyLinear(3))
    net(torch.zeros(1, 1, 4, 4))
    attach(net, "0:output", "grid", Grid(2))
    assert count_work(fixed(1, 1, 4, 4), net).layers[1].bits == ((32, bits),)


def test_baked_weights_keep_the_width_that_is_said_of_them() -> None:
    net = nn.Sequential(nn.Linear(6, 4))
    assert count_work(fixed(1, 6), net, {"0.weight": 3}).bitops == 24 * 3 * 32


def test_element_types_have_their_width() -> None:
    net = nn.Linear(6, 4).to(torch.bfloat16)
    work = count_work(Inputs(lambda n: torch.zeros(1, 6, dtype=torch.bfloat16)), net)
    assert (work.bitops, work.moved_bytes) == (24 * 16 * 16, 2 * (24 + 6 + 4))


class Packed(nn.Module):
    """A layer that keeps whole numbers and multiplies floats; it says how wide they are."""

    codes: Tensor
    weight_bits, input_bits = 2, 8

    def __init__(self, codes: Any) -> None:
        super().__init__()
        self.register_buffer("codes", torch.tensor(codes, dtype=torch.int8))

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.codes.float() * 0.5)


def test_a_layer_says_its_own_widths_and_its_decoded_zeros_count() -> None:
    (layer,) = count_work(fixed(1, 3), Packed([[0, 1, -1], [0, 0, 1]])).layers
    assert (layer.macs, layer.effective_macs, layer.bitops) == (6, 3, 6 * 2 * 8)
    assert layer.moved_bytes == 2 + 12 + 8  # six weights of two bits, in whole bytes


class Signs(Layer):
    """Multiplies signs, 8 of them in a byte: by xor, and a count of the bits in a table."""

    key = "test-signs"
    words: Tensor

    def __init__(self, outputs: int, bytes: int) -> None:
        super().__init__()
        self.register_buffer("words", torch.arange(outputs * bytes, dtype=torch.uint8).view(outputs, bytes))
        self.register_buffer("table", torch.tensor([8 - 2 * n.bit_count() for n in range(256)]))

    def config(self) -> dict[str, Any]:
        return {"outputs": self.words.shape[0], "bytes": self.words.shape[1]}

    def forward(self, x: Tensor) -> Tensor:
        table = self.get_buffer("table")
        found: Tensor = table[(x[:, None] ^ self.words).long()].sum(-1).float()
        return found


class SaysItsWork(Signs):
    """Says what the bit operations stand for."""

    def work(self, *inputs: Tensor) -> Counted:
        macs = len(inputs[0]) * 8 * self.words.numel()
        return Counted(macs, macs, macs, 11, ((1, 1),))


def test_bits_packed_into_words_are_counted_by_their_layer_or_unknown() -> None:
    """Two outputs of 24 signs each; then 2 to 5 in floats."""
    task = Inputs(lambda n: torch.arange(3, dtype=torch.uint8)[None])
    with pytest.raises(UsageError, match=r"MACs of Sequential can't be counted: unknown op aten\.bitwise_xor"):
        count_work(task, nn.Sequential(Signs(2, 3), nn.Linear(2, 5)))
    signs, linear = count_work(task, nn.Sequential(SaysItsWork(2, 3), nn.Linear(2, 5))).layers
    assert (signs.path, signs.kind, signs.macs, signs.bitops, signs.bits) == ("0", "SaysItsWork", 48, 48, ((1, 1),))
    assert linear.macs == 10
    assert (signs.moved_bytes, linear.moved_bytes) == (11, 8 + 40 + 20)


def test_masks_of_truth_values_are_free() -> None:
    assert count_work(fixed(1, 4), Call(lambda x: ((x > 0) & (x < 1)).float())).macs == 0


def test_products_of_sparse_tensors_are_unknown() -> None:
    with pytest.raises(UsageError, match="unknown op"):
        count_work(fixed(4, 2), Call(lambda x: torch.eye(4).to_sparse() @ x))


def test_counting_leaves_the_net_and_torch_alone() -> None:
    net = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    before = {n: v.clone() for n, v in net.state_dict().items()}
    count_work(fixed(1, 5, 8), net)
    assert torch.backends.mha.get_fastpath_enabled()
    assert net.training
    assert all(torch.equal(v, before[n]) for n, v in net.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
