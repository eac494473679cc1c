"""What a cut takes along: slices, transforms, an optimizer's state, ties, the memory format."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from tests.core.surgery.cut_nets import IMAGE, Residual, two_convolutions
from torch import Tensor, nn

from condensery.errors import MethodError, UsageError
from condensery.nets import MASK, Transform, attach
from condensery.surgery import Cut, Left, apply, difference, masked, remove_channels


class Scale(Transform):
    """A learned scale for each channel."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.arange(1.0, 1.0 + torch.Size(shape).numel()).view(shape))
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, value: Tensor) -> Tensor:
        return value * self.scale


class Codebook(Scale):
    """Numbers of the whole layer, which no cut changes; they don't broadcast against the weight."""

    def forward(self, value: Tensor) -> Tensor:
        return value * self.scale.sum()

    def resize(self, take: Any) -> None:
        """Leave them."""


class Keep(Transform):
    """A mask."""

    rank = MASK
    keep: Tensor

    def __init__(self, keep: Tensor) -> None:
        super().__init__()
        self.register_buffer("keep", keep)

    def forward(self, value: Tensor) -> Tensor:
        return value * self.keep


def test_a_cut_worked_out_by_hand() -> None:
    """x = 2: hidden 2.5, 3, 6. All: 2.5 + 30 + 600 = 632.5. Without channel 1: 602.5, and 2 * 602.5 + 7 = 1212."""
    net, x = two_convolutions(), torch.full((1, 1, 1, 1), 2.0)
    assert net(x).flatten().tolist() == [632.5, 1272.0]
    cut = remove_channels(net, x, {"0": [1]})
    assert net(x).flatten().tolist() == [632.5, 1272.0], "the net itself is not changed"
    apply(cut, net)
    assert net(x).flatten().tolist() == [602.5, 1212.0]
    assert net.get_parameter("2.weight").flatten().tolist() == [1.0, 100.0, 2.0, 200.0]
    assert cut.attributes == {"0": {"out_channels": (3, 2)}, "2": {"in_channels": (3, 2)}}
    assert cut.tensors["2.weight"].kept.tolist() == [0, 2, 3, 5]
    summary = json.loads(json.dumps(cut.config()))
    assert summary["tensors"]["2.weight"] == {"old": [2, 3, 1, 1], "new": [2, 2, 1, 1]}
    assert summary["difference"] == 0.0
    assert summary["unproven"] is None


def test_take_slices_what_broadcasts_and_leaves_scalars() -> None:
    left = Left((2, 3), (2, 2), torch.tensor([0, 2, 3, 5]))
    cut = Cut({"w": left}, {})
    assert cut.take("w", torch.arange(6).view(2, 3)).tolist() == [[0, 2], [3, 5]]
    assert cut.take("w", torch.tensor([[7], [8]])).tolist() == [[7], [8]]
    assert cut.take("w", torch.tensor([[7, 8, 9]])).tolist() == [[7, 9]]
    assert cut.take("w", torch.tensor([7, 8, 9])).tolist() == [7, 9]
    scalar, single = torch.tensor(3.0), torch.ones(1, 1)
    assert cut.take("w", scalar) is scalar
    assert cut.take("w", single) is single
    assert cut.take("other", left.kept) is left.kept
    with pytest.raises(MethodError, match=r"w: a tensor of shape \(2,\) doesn't broadcast against \(2, 3\)"):
        cut.take("w", torch.ones(2))


def test_what_is_left_may_stand_in_another_order() -> None:
    """Rows that change places, with all columns; then columns 2 and 0 of the second row."""
    value = torch.arange(6).view(2, 3)
    assert Left((2, 3), (2, 3), torch.tensor([3, 4, 5, 0, 1, 2])).take(value).tolist() == [[3, 4, 5], [0, 1, 2]]
    left = Left((2, 3), (1, 2), torch.tensor([5, 3]))
    assert left.take(value).tolist() == [[5, 3]]
    assert left.zeroed(value).tolist() == [[0, 0, 0], [3, 0, 5]]


def test_an_entry_may_stand_for_all_places_of_a_kernel() -> None:
    """Of 2 by 2 kernels of two places, those at (1, 0) and (1, 1), then only those at (0, 1) and (1, 0)."""
    value = torch.arange(1, 9).view(2, 2, 2)
    row = Left((2, 2, 2), (1, 2, 2), torch.tensor([2, 3]), places=2)
    assert row.kept.tolist() == [4, 5, 6, 7]
    assert row.take(value).tolist() == [[[5, 6], [7, 8]]]
    assert row.zeroed(value).tolist() == [[[0, 0], [0, 0]], [[5, 6], [7, 8]]]

    crossed = Left((2, 2, 2), (2, 1, 2), torch.tensor([1, 2]), places=2)
    assert crossed.take(value).tolist() == [[[3, 4]], [[5, 6]]]
    assert crossed.zeroed(value).tolist() == [[[0, 0], [3, 4]], [[5, 6], [0, 0]]]


def test_take_refuses_a_broadcast_tensor_where_rows_lose_other_columns() -> None:
    left = Left((2, 3), (2, 2), torch.tensor([0, 2, 4, 5]))
    assert left.take(torch.arange(6).view(2, 3)).tolist() == [[0, 2], [4, 5]]
    with pytest.raises(MethodError, match="each group loses other columns"):
        left.take(torch.ones(1, 3))


def test_a_wrong_cut_is_noticed() -> None:
    """A control for the proof: a cut that keeps other columns than rows has a difference far above the limit."""
    net = two_convolutions().double().eval()
    cut = remove_channels(net, torch.ones(1, 1, 1, 1), {"0": [1]})
    wrong = Left((2, 3, 1, 1), (2, 2, 1, 1), torch.tensor([1, 2, 4, 5]))
    bad = Cut({**cut.tensors, "2.weight": wrong}, cut.attributes)
    found = difference(bad, net, torch.ones(1, 1, 1, 1, dtype=torch.float64), lambda net, x: net(x))
    assert found > 0.01
    assert masked(cut, net, net).get_parameter("0.bias").tolist() == [0.5, 0.0, 0.0]


def test_transforms_and_latent_weights_are_cut() -> None:
    net = two_convolutions()
    attach(net, "0.weight", "scale", Scale(3, 1, 1, 1))
    keep = torch.ones(2, 3, 1, 1)
    keep[1, 2] = 0
    attach(net, "2.weight", "keep", Keep(keep))
    attach(net, "2:input", "scale", Scale(1, 3, 1, 1))
    attach(net, "2:output", "scale", Scale(1, 2, 1, 1))
    x = torch.full((1, 1, 1, 1), 2.0)
    # hidden relu(2 * (1*1, 2*2, 3*3) + bias) = 2.5, 7, 18; input scale 1, 2, 3: 2.5, 14, 54; output scale 1, 2
    assert net(x).flatten().tolist() == [2.5 + 140 + 5400, 2 * (5 + 280 + 7)]
    apply(remove_channels(net, x, {"0": [1]}), net)
    assert net(x).flatten().tolist() == [2.5 + 5400, 2 * (5 + 7)]
    names = dict(net.named_parameters())
    assert names["0.parametrizations.weight.original"].flatten().tolist() == [1.0, 3.0]
    assert names["0.parametrizations.weight.0.transforms.scale.scale"].flatten().tolist() == [1.0, 3.0]
    net(x).sum().backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in names.values())


def test_an_activation_transform_that_does_not_fit_is_refused() -> None:
    net = two_convolutions()
    attach(net, "2:input", "scale", Scale(3))
    with pytest.raises(MethodError, match=r"2:input: a tensor of shape \(3,\) doesn't fit 3 channels"):
        apply(remove_channels(two_convolutions(), torch.ones(1, 1, 1, 1), {"0": [1]}), net)


def test_optimizer_state_is_sliced_by_the_same_cut() -> None:
    net: nn.Module = Residual()
    attach(net, "inner.weight", "scale", Scale(4, 1, 1, 1))
    attach(net, "outer:input", "scale", Scale(1, 4, 1, 1))
    optimizer = torch.optim.Adam(net.parameters())
    net(IMAGE).sum().backward()
    optimizer.step()
    names = {id(p): n.replace("parametrizations.weight.original", "weight") for n, p in net.named_parameters()}
    state: dict[str, Any] = {names[id(p)]: dict(s) for p, s in optimizer.state.items()}
    moment = state["inner.weight"]["exp_avg"].clone()
    cut = remove_channels(net, IMAGE, {"stem": [2, 3], "inner": [0]})
    apply(cut, net, state)
    after = {n.replace("parametrizations.weight.original", "weight"): p for n, p in net.named_parameters()}
    assert state.keys() == after.keys()
    for name, parameter in after.items():
        assert state[name]["exp_avg"].shape == state[name]["exp_avg_sq"].shape == parameter.shape, name
        assert state[name]["step"].dim() == 0
    assert torch.equal(state["inner.weight"]["exp_avg"], moment[1:][:, [0, 1, 4, 5]])


def test_the_state_of_what_a_transform_keeps_is_kept() -> None:
    """As of centers that all weights of a layer share: five numbers, whatever the layer loses."""
    net: nn.Module = Residual()
    attach(net, "inner.weight", "codes", Codebook(5))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    net(IMAGE).sum().backward()
    optimizer.step()
    names = {id(p): n.replace("parametrizations.weight.original", "weight") for n, p in net.named_parameters()}
    state: dict[str, Any] = {names[id(p)]: dict(s) for p, s in optimizer.state.items()}
    (codes,) = (name for name in state if name.endswith("codes.scale"))
    before = state[codes]["momentum_buffer"].clone()
    assert before.abs().sum() > 0

    apply(remove_channels(net, IMAGE, {"inner": [0]}), net, state)
    assert torch.equal(state[codes]["momentum_buffer"], before)
    assert (
        state["inner.weight"]["momentum_buffer"].shape
        == net.get_parameter("inner.parametrizations.weight.original").shape
    )


def test_tied_weights_stay_tied_or_are_refused() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    net[1].weight = net[2].weight
    with pytest.raises(UsageError, match=r"layer '0' can't be cut: .*2\.weight is shared with 1\.weight"):
        remove_channels(net, torch.randn(2, 3), {"0": [0]})
    left = Left((4, 4), (2, 4), torch.arange(8))
    apply(Cut({"1.weight": left, "2.weight": left}, {}), net)
    assert net[1].weight is net[2].weight
    assert net[1].weight.shape == (2, 4)


def test_the_memory_format_stays() -> None:
    net = Residual().to(memory_format=torch.channels_last)
    apply(remove_channels(net, IMAGE, {"stem": [0]}), net)
    weight = net.get_parameter("inner.weight")
    assert net.get_parameter("stem.weight").is_contiguous(memory_format=torch.channels_last)
    assert weight.is_contiguous()
