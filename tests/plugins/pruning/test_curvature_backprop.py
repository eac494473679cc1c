from __future__ import annotations

import pytest
import torch
from tests.plugins.pruning.stages import Given, draw, stage_of, weights_in, whole_hessian
from torch import Tensor, nn

from condensery import Batch, NotApplicable, UsageError
from condensery_plugins.models.mlp import MLP
from condensery_plugins.pruning.curvature import row_diagonal
from condensery_plugins.pruning.curvature_backprop import backprop_diagonal
from condensery_plugins.pruning.masks import mask

torch.set_num_threads(1)


def diagonal(net: nn.Module, x: Tensor, y: Tensor) -> list[Tensor]:
    stage = stage_of(net, Given(x, y))
    return backprop_diagonal(stage, weights_in(stage), stage.sample(1000), method="m")


@pytest.mark.parametrize("activation", ["relu", "sigmoid", "tanh"])
def test_it_is_torchs_hessian_at_a_perfect_fit_of_one_hidden_layer(activation: str) -> None:
    torch.manual_seed(2)
    net, x = MLP([3, 4, 2], activation=activation, output="sigmoid").double(), draw(10, 3)
    stage = stage_of(net, Given(x, net(x).detach()))
    weights = weights_in(stage)
    found = torch.cat([d.flatten() for d in backprop_diagonal(stage, weights, stage.sample(1000), method="m")])
    torch.testing.assert_close(found, whole_hessian(stage, weights).diagonal())


def test_two_layers_by_hand() -> None:
    """1-1-1 with ReLU: w1 = 2, w2 = 3, x = 4. The output's curvature is 1.

    w2: state^2 = 64. Its unit's state: w2^2 = 9, times f'^2 = 1; w1: 9 * 16 = 144; its bias 9.
    """
    net = MLP([1, 1, 1]).double()
    with torch.no_grad():
        for name, value in (("fc1.weight", 2.0), ("fc1.bias", 0.0), ("fc2.weight", 3.0), ("fc2.bias", 0.0)):
            net.get_parameter(name).fill_(value)
    found = diagonal(net, torch.tensor([[4.0]]).double(), torch.tensor([[7.0]]).double())
    assert [float(d) for d in found] == [144.0, 64.0, 9.0, 1.0]


def test_the_second_derivative_of_the_unit_is_dropped() -> None:
    """One sigmoid unit at 0 with x = 2: f' = 1/4, h = (1/4)^2 * 4 = 1/4, whatever the target."""
    net = MLP([1, 1], output="sigmoid").double()
    nn.init.zeros_(net.get_parameter("fc1.weight"))
    nn.init.zeros_(net.get_parameter("fc1.bias"))
    for target in (0.5, 100.0):
        found = diagonal(net, torch.tensor([[2.0]]).double(), torch.tensor([[target]]).double())
        assert float(found[0]) == pytest.approx(0.25)


def test_shared_kernels_sum_over_positions_by_hand() -> None:
    """A 1x1 kernel on (1, 2) with both outputs fitted: h = 1 + 4; its bias, used twice: 2."""
    net = nn.Sequential(nn.Conv1d(1, 1, 1), nn.Flatten()).double()
    found = diagonal(net, torch.tensor([[[1.0, 2.0]]]).double(), torch.zeros(1, 2).double())
    assert [float(d) for d in found] == [5.0, 2.0]


def test_a_sum_over_positions_is_not_the_square_of_a_sum() -> None:
    """The same kernel under a linear unit with weights 1: the connections give 1 + 4, Gauss-Newton (1 + 2)^2."""
    net = nn.Sequential(nn.Conv1d(1, 1, 1, bias=False), nn.Flatten(), nn.Linear(2, 1, bias=False)).double()
    nn.init.ones_(net.get_parameter("2.weight"))
    stage = stage_of(net, Given(torch.tensor([[[1.0, 2.0]]]).double(), torch.zeros(1, 1).double()))
    assert float(backprop_diagonal(stage, stage.weights(), stage.sample(1), method="m")[0]) == 5.0
    newton = row_diagonal(stage, stage.weights(), stage.sample(1), "gauss-newton", method="m")
    assert float(newton[0]) == pytest.approx(9.0)


class Deep(nn.Module):
    """Convolution, normalization, pooling, a shortcut and a mean: what a CNN is made of."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm = nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2)
        self.conv2, self.last = nn.Conv2d(2, 2, 1), nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.max_pool2d(torch.relu(self.norm(self.conv1(x))), 2)
        return self.last((x + self.conv2(x)).mean((2, 3)))  # type: ignore[no-any-return]


def test_a_cnn_by_the_rules_written_out() -> None:
    """The same recursion, worked out forwards with explicit derivatives of each rule."""
    torch.manual_seed(4)
    net, x = Deep().double(), draw(6, 1, 4, 4)
    with torch.no_grad():
        net.norm.running_var.copy_(torch.tensor([2.0, 0.5]))  # type: ignore[union-attr]
        net.norm.weight.copy_(torch.tensor([1.5, -0.7]))
    net.eval()
    found = dict(zip(["conv1", "conv2", "last"], diagonal(net, x, draw(6, 3)), strict=False))
    before = net.norm(net.conv1(x))
    pooled, where = nn.functional.max_pool2d(before.relu(), 2, return_indices=True)
    features = (pooled + net.conv2(pooled)).mean((2, 3))
    torch.testing.assert_close(found["last"], (features**2).mean(0).expand(3, 2))
    at_mean = (net.last.weight**2).sum(0)  # curvature of the outputs is 1 each
    at_sum = at_mean[None, :, None, None].expand_as(pooled) / 4**2
    conv2 = torch.einsum("nohw,nihw->oi", at_sum, pooled**2) / 6
    torch.testing.assert_close(found["conv2"].flatten(1), conv2)
    at_pool = at_sum + torch.einsum("oi,nohw->nihw", net.conv2.weight.flatten(1) ** 2, at_sum)
    at_relu = torch.zeros(6, 2, 16).double().scatter(2, where.flatten(2), at_pool.flatten(2)).view_as(before)
    factor = net.norm.weight**2 / (net.norm.running_var + net.norm.eps)  # type: ignore[operator]
    at_conv1 = at_relu * (before > 0) * factor[None, :, None, None]
    patches = nn.functional.unfold(x**2, 3, padding=1)  # (examples, 9, positions)
    conv1 = torch.einsum("nop,nkp->ok", at_conv1.flatten(2), patches) / 6
    torch.testing.assert_close(found["conv1"].flatten(1), conv1)


class Sums(Given):
    """The mean of all outputs: a loss without second derivatives."""

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor | None:
        return outputs.mean()


def test_a_loss_linear_in_the_outputs_is_refused() -> None:
    stage = stage_of(MLP([3, 4, 2]).double(), Sums(draw(5, 3), draw(5, 2)))
    with pytest.raises(UsageError, match=r"^m: the loss has no curvature by the net's outputs.*; say hessian 'fisher'"):
        backprop_diagonal(stage, weights_in(stage), stage.sample(5), method="m")


class Written(nn.Module):
    """Two layers with a ReLU between, that is written over its input; both are added up."""

    def __init__(self, inplace: bool) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
        self.relu = nn.ReLU(inplace)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.last(self.relu(x) + x)  # type: ignore[no-any-return]


@pytest.mark.parametrize(("inplace", "expected"), [(True, [0.0, 0.0]), (False, [144.0, 64.0])])
def test_a_relu_in_place_is_seen_by_what_reads_its_input_too(inplace: bool, expected: list[float]) -> None:
    """Weights -2 and 3, x = 4: the sum is -8. In place both terms are 0, and no curvature passes.

    Else the sum itself is the state: the last weight's h is 64, the first one's 9 * (0 + 1) * 16.
    """
    net = Written(inplace).double()
    nn.init.constant_(net.first.weight, -2.0)
    nn.init.constant_(net.last.weight, 3.0)
    found = diagonal(net, torch.tensor([[4.0]]).double(), torch.tensor([[7.0]]).double())
    assert [float(d) for d in found] == expected


def test_functions_in_place_give_what_they_give_otherwise() -> None:
    torch.manual_seed(3)
    found = []
    for inplace in (True, False):
        units = [nn.ReLU(inplace), nn.LeakyReLU(0.1, inplace), nn.SiLU(inplace), nn.Dropout(0.5, inplace)]
        net = nn.Sequential(*(m for unit in units for m in (nn.Linear(4, 4), unit)), nn.Linear(4, 2)).double()
        for parameter, seed in zip(net.parameters(), range(99), strict=False):
            parameter.data = draw(*parameter.shape, seed=seed)
        found.append(torch.cat([d.flatten() for d in diagonal(net, draw(6, 4), draw(6, 2))]))
    assert float(found[1].median()) > 0
    torch.testing.assert_close(found[0], found[1])


def test_masked_weights_pass_no_curvature_on() -> None:
    """1-2-1 linear: the masked second unit passes nothing to its input's weight."""
    net = nn.Sequential(nn.Linear(1, 2, bias=False), nn.Linear(2, 1, bias=False)).double()
    nn.init.constant_(net.get_parameter("0.weight"), 2.0)
    nn.init.constant_(net.get_parameter("1.weight"), 3.0)
    stage = stage_of(net, Given(torch.ones(1, 1).double(), torch.zeros(1, 1).double()))
    mask(stage, stage.weights()[1], torch.tensor([[True, False]]))
    first, last = backprop_diagonal(stage, stage.weights(), stage.sample(1), method="m")
    assert first.flatten().tolist() == [9.0, 0.0]
    assert last.flatten().tolist() == [4.0, 4.0]


@pytest.mark.parametrize(
    ("layer", "named"), [(nn.LayerNorm(4), "layer_norm"), (nn.Softmax(1), "softmax"), (nn.AdaptiveAvgPool1d(3), "pool")]
)
def test_an_operation_without_a_rule_is_named(layer: nn.Module, named: str) -> None:
    net = nn.Sequential(nn.Linear(3, 4), layer, nn.LazyLinear(1)).double()
    net(draw(2, 3))
    with pytest.raises(NotApplicable, match=f"{named}.*; say 'gauss-newton'"):
        diagonal(net, draw(5, 3), draw(5, 1))


def test_adaptive_pooling_is_a_mean_where_it_takes_every_pixel_once() -> None:
    """A 1x1 kernel on a 2x2 image of 1, 2, 3, 4, pooled to one number: (1 + 4 + 9 + 16) / 4^2."""
    net = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten()).double()
    image = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]).double()
    assert float(diagonal(net, image, torch.zeros(1, 1).double())[0]) == pytest.approx(30 / 16)
    overlapping = nn.Sequential(nn.Conv2d(1, 1, 1), nn.AdaptiveAvgPool2d((2, 1)), nn.Flatten()).double()
    with pytest.raises(NotApplicable, match="adaptive_avg_pool2d"):
        diagonal(overlapping, torch.ones(1, 1, 3, 2).double(), torch.zeros(1, 2).double())
