from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests.plugins.quantization.helpers import gemmlowp, settle
from torch import nn

from condensery import UsageError
from condensery_plugins.quantization.folded_layers import FoldedConv2d, FoldedLinear
from condensery_plugins.quantization.integer_arithmetic import FLOAT32_WHOLE
from condensery_plugins.quantization.integer_layers import Integer, IntegerConv2d, IntegerLinear

Codes = NDArray[np.int64]


def conv(**changes: Any) -> FoldedConv2d:
    geometry = {"in_channels": 4, "out_channels": 6, "kernel_size": 3, "padding": 1, **changes}
    return FoldedConv2d(geometry, {"activation": "relu", "eps": 1e-5})


def input_codes(layer: Integer, x: torch.Tensor) -> Codes:
    n = layer.numbers()
    codes = np.round(x.numpy() / float(n.input_scale)) + int(n.input_zero)
    return np.clip(codes, 0, 2**layer.input_bits - 1).astype(np.int64)


def expanded(q1: Codes, q2: Codes, z1: int, z2: int) -> int:
    """Sum q1 q2 - Z1 sum q2 - Z2 sum q1 + K Z1 Z2."""
    return int((q1 * q2).sum() - z1 * q2.sum() - z2 * q1.sum() + q1.size * z1 * z2)


def output_code(layer: Integer, accumulator: int) -> int:
    out = layer.numbers().output
    assert out is not None
    code = gemmlowp(accumulator, int(out.multiplier), int(out.shift)) + int(out.zero)
    return min(max(code, int(out.low)), int(out.high))


@pytest.mark.parametrize(
    "geometry", [{}, {"stride": 2}, {"dilation": 2, "padding": 2}, {"groups": 2, "bias": False}, {"padding": "same"}]
)
def test_a_convolution_equals_a_loop_over_whole_numbers(geometry: dict[str, Any]) -> None:
    torch.manual_seed(1)
    trained = conv(**geometry)
    x = torch.randn(2, 4, 5, 5)
    settle(trained, x)
    layer = trained.bake()
    n = layer.numbers()
    z1, z2 = int(n.input_zero), int(n.weight_zero)
    stride, dilation = trained.stride[0], trained.dilation[0]
    pad = 1 if isinstance(trained.padding, str) else int(trained.padding[0])
    q1 = np.pad(input_codes(layer, x), ((0, 0), (0, 0), (pad, pad), (pad, pad)), constant_values=z1)
    q2 = n.codes.numpy().astype(np.int64)
    accumulators, out = layer.accumulate(x), layer(x)
    assert accumulators.dtype == torch.int32
    group_in, group_out = 4 // trained.groups, 6 // trained.groups
    for b, o, i, j in itertools.product(*map(range, accumulators.shape)):
        start = o // group_out * group_in
        rows = slice(i * stride, i * stride + 2 * dilation + 1, dilation)
        columns = slice(j * stride, j * stride + 2 * dilation + 1, dilation)
        window = q1[b, start : start + group_in, rows, columns]
        total = expanded(window, q2[o], z1, z2) + int(n.bias[o])
        assert total == int(((window - z1) * (q2[o] - z2)).sum()) + int(n.bias[o])
        assert int(accumulators[b, o, i, j]) == total
        assert n.output is not None
        value = (output_code(layer, total) - int(n.output.zero)) * np.float32(n.output.scale.item())
        assert float(out[b, o, i, j]) == float(value)


def test_a_linear_layer_equals_the_expanded_sum() -> None:
    torch.manual_seed(2)
    trained = FoldedLinear({"in_features": 40, "out_features": 7}, {})
    x = torch.randn(3, 5, 40)
    layer = settle(trained, x).bake()
    assert isinstance(layer, IntegerLinear)
    n, q1 = layer.numbers(), input_codes(layer, x)
    found = layer.accumulate(x)
    for a, b, o in itertools.product(range(3), range(5), range(7)):
        total = expanded(q1[a, b], n.codes[o].numpy().astype(np.int64), int(n.input_zero), int(n.weight_zero))
        assert int(found[a, b, o]) == total + int(n.bias[o])


def test_without_requantization_the_accumulators_are_handed_on() -> None:
    trained = FoldedLinear({"in_features": 8, "out_features": 2}, {"output_bits": None})
    x = torch.randn(4, 8)
    layer = settle(trained, x).bake()
    n = layer.numbers()
    assert n.output is None
    expected = layer.accumulate(x).double() * n.input_scale.double() * n.weight_scale.double()
    assert torch.equal(layer(x), expected.float())
    assert (layer(x) - trained.soft(x)).abs().max() < 1e-4


@pytest.mark.parametrize("inputs", [200, 20_000])
def test_no_worst_case_leaves_int32_and_the_type_is_exact(inputs: int) -> None:
    """All inputs and weights at their ends: 20,000 products of 255 and 254 need float64, 200 need float32 only."""
    trained = FoldedLinear({"in_features": inputs, "out_features": 1}, {"output_bits": None})
    with torch.no_grad():
        trained.weight[:] = 1.0
        assert trained.bias is not None
        trained.bias.zero_()
    layer = settle(trained, torch.tensor([[0.0], [1.0]]).expand(2, inputs)).bake()
    reach = int(layer.get_buffer("reach"))
    assert reach == inputs * 255 * 254
    assert (reach >= FLOAT32_WHOLE) == (inputs == 20_000)
    assert int(layer.accumulate(torch.ones(1, inputs))) == reach < 2**31


def test_accumulators_that_could_leave_int32_are_refused() -> None:
    """40,000 products of up to 255 times 254 are more than 2^31."""
    trained = FoldedLinear({"in_features": 40_000, "out_features": 1}, {})
    with torch.no_grad():
        trained.weight[:] = 1.0
    settle_range = torch.tensor([[0.0], [1.0]]).expand(2, 40_000)
    trained.follows_ranges = True
    trained.train()(settle_range)
    with pytest.raises(UsageError, match="accumulators of 40000 products may leave int32"):
        trained.bake()


def test_a_vanished_weight_keeps_its_bias() -> None:
    trained = FoldedLinear({"in_features": 3, "out_features": 2}, {"output_bits": None})
    with torch.no_grad():
        trained.weight[:] = 1e-12
        assert trained.bias is not None
        trained.bias[:] = torch.tensor([1.0, -2.0])
    x = torch.rand(4, 3)
    layer = settle(trained, x).bake()
    assert int(layer.get_buffer("bias").abs().max()) == pytest.approx(2**30, rel=1e-6)
    assert layer(x) == pytest.approx(torch.tensor([1.0, -2.0]).expand(4, 2).numpy(), abs=1e-6)


def test_a_layer_is_rebuilt_from_config_and_tensors() -> None:
    x = torch.randn(2, 4, 6, 6)
    layer = settle(conv(stride=2), x).bake()
    again = IntegerConv2d(**layer.config())
    again.load_state_dict(layer.state_dict())
    assert torch.equal(again(x), layer(x))
    assert {str(b.dtype).removeprefix("torch.") for b in layer.buffers()} == {"int8", "int32", "int64", "float32"}
    assert (layer.weight_bits, layer.input_bits) == (8, 8)
    assert layer.get_buffer("codes").dtype == torch.int8
    assert int(layer.get_buffer("codes").min()) >= -127
    assert not list(layer.parameters())


def test_the_real_weight_is_the_folded_one() -> None:
    trained = conv()
    layer = settle(trained, torch.randn(2, 4, 6, 6)).bake()
    folded, _ = trained.fold()
    assert layer.weight.dtype == torch.float32
    distance = (layer.weight - folded).abs() / layer.numbers().weight_scale
    assert distance.max() <= 1.01  # half a code by rounding, half a code at the ends, which the nudge moves
    assert distance.mean() < 0.3


def test_autocast_changes_nothing() -> None:
    x = torch.randn(8, 4, 6, 6)
    trained = settle(conv(), x)
    layer = trained.bake()
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        assert torch.equal(layer(x), trained(x))
        found = layer(x)
    assert torch.equal(found, layer(x))
    assert isinstance(trained, nn.Conv2d)
