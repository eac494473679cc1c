from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.plugins.quantization.helpers import settle
from torch import Tensor, nn

from condensery.surgery import apply, remove_channels
from condensery_plugins.quantization.folded_layers import Folded, FoldedConv2d, FoldedLinear


def pair(bias: bool = True) -> tuple[nn.Conv2d, nn.BatchNorm2d, FoldedConv2d]:
    """Return a convolution with batch normalization, and the folded layer with the same numbers; in double."""
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(3, 4, 3, padding=1, bias=bias), nn.BatchNorm2d(4)
    nn.init.uniform_(norm.weight, -1, 2)
    nn.init.normal_(norm.bias)
    geometry = {"in_channels": 3, "out_channels": 4, "kernel_size": 3, "padding": 1, "bias": bias}
    folded = FoldedConv2d(geometry, {"eps": norm.eps, "momentum": 0.1})
    with torch.no_grad():
        folded.weight.copy_(conv.weight)
        if folded.bias is not None and conv.bias is not None:
            folded.bias.copy_(conv.bias)
        folded.gamma.copy_(norm.weight)
        folded.beta.copy_(norm.bias)
    return conv.double(), norm.double(), folded.double()


def run(folded: Folded, x: Tensor) -> Tensor:
    """Run a layer with its folded weight, nothing quantized."""
    weight, bias = folded.fold(x)
    return folded.product(x, weight, bias)


@pytest.mark.parametrize("bias", [True, False])
def test_folding_equals_batch_normalization_in_training_and_after(bias: bool) -> None:
    conv, norm, folded = pair(bias)
    folded.follows_batches = True
    for _ in range(3):
        x = torch.randn(5, 3, 6, 6).double()
        assert (run(folded.train(), x) - norm.train()(conv(x))).abs().max() < 1e-12
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert torch.allclose(folded.running_mean, norm.running_mean, atol=1e-12)
    assert torch.allclose(folded.running_var, norm.running_var, atol=1e-12)
    x = torch.randn(5, 3, 6, 6).double()
    assert (run(folded.eval(), x) - norm.eval()(conv(x))).abs().max() < 1e-12
    single = x.float()
    assert (run(folded.float(), single) - norm.float()(conv.float()(single))).abs().max() < 1e-5


def test_gradients_of_folding() -> None:
    _, _, folded = pair()
    folded.follows_batches = True
    folded.train()
    names = ("weight", "bias", "gamma", "beta")
    values = [getattr(folded, n).detach().clone().requires_grad_() for n in names]
    x = torch.randn(2, 3, 4, 4).double().requires_grad_()

    def out(x: Tensor, *values: Tensor) -> Tensor:
        weight, bias = torch.func.functional_call(
            _Fold(folded), {f"layer.{n}": v for n, v in zip(names, values, strict=True)}, (x,)
        )
        return folded.product(x, weight, bias)

    with torch.no_grad():
        folded.running_mean.zero_()
    assert torch.autograd.gradcheck(out, (x, *values))


class _Fold(nn.Module):
    def __init__(self, layer: Folded) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Any:
        return self.layer.fold(x)


def test_statistics_stand_still_unless_the_method_lets_them_move() -> None:
    _, _, folded = pair()
    before = {n: v.clone() for n, v in folded.named_buffers()}
    folded.train()(torch.randn(4, 3, 6, 6).double())
    assert all(torch.equal(before[n], v) for n, v in folded.named_buffers())
    folded.follows_batches = folded.follows_ranges = True
    folded.train()(torch.randn(4, 3, 6, 6).double())
    assert not any(torch.equal(before[n], v) for n, v in folded.named_buffers() if not n.endswith(".low"))
    assert int(folded.input_range.batches) == 1


def test_the_straight_through_gradient() -> None:
    """dL/dx is the rounded weight, dL/dw the rounded input; each 0 where the value itself lies outside its range."""
    layer = FoldedLinear({"in_features": 2, "out_features": 1, "bias": False}, {"output_bits": None})
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[-1.0, 0.3003]]))
    settle(layer, torch.tensor([[0.0, 1.0]]))
    layer.train()
    x = torch.tensor([[0.25, 1.5]], requires_grad=True)
    layer(x).sum().backward()
    step = 1.3003 / 254  # 0 is at code round(-127 + 1 / step) = 68
    assert x.grad is not None
    assert layer.weight.grad is not None
    assert x.grad.tolist() == [[pytest.approx(-195 * step), 0.0]]  # 1.5 lies outside the range of the input
    assert layer.weight.grad.tolist() == [[0.0, 1.0]]  # -1 is cut: -195 * step is -0.9983; the input 1.5 counts as 1


def test_eval_has_the_training_gradient() -> None:
    layer = FoldedLinear({"in_features": 6, "out_features": 3}, {"activation": "relu"})
    x = torch.randn(4, 6)
    settle(layer, x)
    first, second = x.clone().requires_grad_(), x.clone().requires_grad_()
    layer(first).sum().backward()
    layer.soft(second).sum().backward()  # type: ignore[no-untyped-call]
    assert first.grad is not None
    assert second.grad is not None
    assert torch.equal(first.grad, second.grad)
    with torch.no_grad():
        assert torch.equal(layer(x), layer(first))


def test_relu6_is_cut_by_codes_and_the_nets_own_changes_nothing() -> None:
    torch.manual_seed(0)
    layer = FoldedLinear({"in_features": 4, "out_features": 8}, {"activation": "relu6"})
    x = 20 * torch.randn(64, 4)
    settle(layer, x)
    with torch.no_grad():
        out = layer(x)
    assert float(out.min()) == 0
    assert 6 - float(layer.numbers().output.scale) < float(out.max()) < 6 + 1e-6  # type: ignore[union-attr]
    assert (nn.functional.relu6(out) - out).abs().max() < 1e-6


def test_codes_pass_a_linked_layer_unchanged() -> None:
    """The reals of a layer's codes give the same codes on the next layer's copy of the grid."""
    torch.manual_seed(0)
    one = FoldedLinear({"in_features": 5, "out_features": 256}, {})
    two = FoldedLinear({"in_features": 256, "out_features": 2}, {"linked": True})
    x = torch.randn(50, 5)
    settle(one, x)
    assert one.output_range is not None
    two.input_range.take(one.output_range)
    numbers = one.bake().numbers()
    assert numbers.output is not None
    codes = numbers.output.codes(one.bake().accumulate(x))
    with torch.no_grad():
        assert torch.equal(two.input_range.grid().codes(one(x)).int(), codes)
    assert len(codes.unique()) > 200  # type: ignore[no-untyped-call]


def test_activations_may_wait() -> None:
    torch.manual_seed(0)
    layer = FoldedLinear({"in_features": 6, "out_features": 3}, {})
    x = torch.randn(9, 6)
    settle(layer, x)
    layer.active = False
    grid = layer.weight_grid(layer.weight)
    expected = nn.functional.linear(x, grid.values(grid.codes(layer.weight)), layer.bias)
    assert torch.allclose(layer(x), expected, atol=1e-6)


@pytest.mark.parametrize("made", [FoldedConv2d, FoldedLinear])
def test_a_layer_is_rebuilt_from_config_and_tensors(made: Any) -> None:
    geometry: dict[str, Any] = {"in_features": 4, "out_features": 3}
    x = torch.randn(6, 4)
    if made is FoldedConv2d:
        geometry, x = (
            {"in_channels": 4, "out_channels": 4, "kernel_size": [3, 1], "groups": 2, "padding": [1, 0]},
            torch.randn(2, 4, 5, 5),
        )
    layer = made(geometry, {"eps": 1e-3, "momentum": 0.2, "weight_bits": 4, "activation": "relu"})
    settle(layer, x)
    again = made(**layer.config()).eval()
    again.load_state_dict(layer.state_dict())
    assert again.config() == layer.config()
    assert torch.equal(again(x), layer(x))
    assert torch.equal(layer.bake()(x), layer(x))
    assert int(layer.bake().get_buffer("codes").abs().max()) == 7


def test_channels_are_cut_with_their_norm() -> None:
    """x = 2: 2; (4 + 1 - 1) / 2 * 2 = 4; 508 - 1 - 2 + 5 = 510. All: 2 + 40 + 51000; without channel 1: 51002.

    The folded weights 1, 2 and 254 are on an 8-bit grid of step 1.
    """
    geometry = {"in_channels": 1, "out_channels": 3, "kernel_size": 1, "bias": True}
    net = nn.Sequential(FoldedConv2d(geometry, {"eps": 0.0, "output_bits": None}), nn.ReLU(), nn.Conv2d(3, 1, 1))
    layer = net[0]
    assert isinstance(layer, FoldedConv2d)
    numbers = {
        "0.weight": [1.0, 2.0, 254.0],
        "0.bias": [0.0, 1.0, -1.0],
        "0.gamma": [1.0, 2.0, 1.0],
        "0.beta": [0.0, 0.0, 5.0],
        "0.running_mean": [0.0, 1.0, 2.0],
        "0.running_var": [1.0, 4.0, 1.0],
        "2.weight": [1.0, 10.0, 100.0],
        "2.bias": [0.0],
    }
    state = net.state_dict()
    net.load_state_dict(state | {n: torch.tensor(v).view_as(state[n]) for n, v in numbers.items()})
    layer.active, x = False, torch.full((1, 1, 1, 1), 2.0)
    assert net.eval()(x).item() == 51042.0
    apply(remove_channels(net, x, {"0": [1]}), net)
    assert net(x).item() == 51002.0
    assert layer.get_parameter("beta").tolist() == [0.0, 5.0]
    assert layer.running_var.tolist() == [1.0, 1.0]
    assert layer.config()["geometry"]["out_channels"] == 2


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("norm", [True, False])
def test_a_stand_in_computes_the_same_in_floats(bias: bool, norm: bool) -> None:
    layer = FoldedLinear({"in_features": 4, "out_features": 3, "bias": bias}, {"eps": 1e-5 if norm else None})
    if norm:
        with torch.no_grad():
            for tensor in (layer.gamma, layer.beta, layer.running_mean, layer.running_var):
                tensor.uniform_(0.5, 2.0)
    x = torch.randn(5, 4)
    made, names = layer.stand_in()
    assert type(made) is nn.Linear
    torch.testing.assert_close(made(x), run(layer.eval(), x))
    assert {n for own in names.values() for n in own} == {n for n, _ in layer.named_parameters()} | {
        n for n, _ in layer.named_buffers(recurse=False)
    }
