"""Cuts: what they leave of nets whose outputs are worked out by hand, and of everything that hangs on a net."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from condensery.clone import plain
from condensery.cuts import Cut, Left, apply, difference, masked
from condensery.errors import MethodError, UsageError
from condensery.surgeon import choose
from condensery.surgery import ChannelGraph, Group, remove_channels
from condensery.transforms import MASK, Transform, attach

IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Scale(Transform):
    """A learned scale for each channel."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.arange(1.0, 1.0 + torch.Size(shape).numel()).view(shape))
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, value: Tensor) -> Tensor:
        return value * self.scale


class Keep(Transform):
    """A mask."""

    rank = MASK
    keep: Tensor

    def __init__(self, keep: Tensor) -> None:
        super().__init__()
        self.register_buffer("keep", keep)

    def forward(self, value: Tensor) -> Tensor:
        return value * self.keep


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.inner = nn.Conv2d(6, 4, 1)
        self.outer = nn.Conv2d(4, 6, 1)
        self.norm = nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.norm(self.outer(torch.relu(self.inner(x))))
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


class Dense(nn.Module):
    """Two steps that add their channels to what they read."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.norm1, self.conv1 = nn.BatchNorm2d(4), nn.Conv2d(4, 3, 3, padding=1)
        self.norm2, self.conv2 = nn.BatchNorm2d(7), nn.Conv2d(7, 2, 1)
        self.head = nn.Linear(9, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.cat([x, self.conv1(torch.relu(self.norm1(x)))], 1)
        x = torch.cat([x, self.conv2(torch.relu(self.norm2(x)))], 1)
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


class Strange(nn.Module):
    """Channels that no dependency graph follows: reversed, then added; padded; shown as the output."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 6 if how == "padded" else 4, 1)
        self.c, self.head = nn.Conv2d(6 if how == "padded" else 4, 5, 1), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        y = self.b(torch.relu(x))
        x = functional.pad(x, (0, 0, 0, 0, 1, 1)) if self.how == "padded" else x.flip(1)
        return self.head(torch.relu(self.c(torch.relu(x + y))).mean((2, 3)))  # type: ignore[no-any-return]


class Grouped(nn.Module):
    def __init__(self, groups: int = 2, outputs: int = 8) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1)
        self.b = nn.Conv2d(8, outputs, 3, padding=1, groups=groups)
        self.c = nn.Conv2d(outputs, 4, 1)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.b(torch.relu(self.a(x))))
        return self.head(torch.relu(self.c(x)).mean((2, 3)))  # type: ignore[no-any-return]


def shapes(net: nn.Module) -> dict[str, tuple[int, ...]]:
    return {n: tuple(p.shape) for n, p in net.named_parameters()}


def cut_and_check(net: nn.Module, removed: dict[str, list[int]], x: Tensor = IMAGE) -> Cut:
    """Cut a net and compare its outputs, in float32, with those of a copy whose removed entries are zero."""
    cut = remove_channels(net, x, removed)
    want = plain(net).eval()
    with torch.no_grad():
        for name, left in cut.tensors.items():
            parameter = dict(want.named_parameters()).get(name)
            if parameter is not None:
                keep = torch.zeros(parameter.numel())
                keep[left.kept] = 1
                parameter.mul_(keep.view_as(parameter))
    apply(cut, net)
    torch.testing.assert_close(net.eval()(x), want(x), atol=1e-5, rtol=0)
    assert cut.difference is not None
    assert cut.difference <= 1e-9
    return cut


def two_convolutions() -> nn.Sequential:
    """1x1 convolutions on one channel: 1 -> 3 -> 2, with weights that are whole numbers."""
    net = nn.Sequential(nn.Conv2d(1, 3, 1), nn.ReLU(), nn.Conv2d(3, 2, 1))
    state = {
        "0.weight": torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1, 1),
        "0.bias": torch.tensor([0.5, -1.0, 0.0]),
        "2.weight": torch.tensor([[1.0, 10.0, 100.0], [2.0, 20.0, 200.0]]).view(2, 3, 1, 1),
        "2.bias": torch.tensor([0.0, 7.0]),
    }
    net.load_state_dict(state)
    return net


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


def test_take_refuses_a_broadcast_tensor_where_rows_lose_other_columns() -> None:
    left = Left((2, 3), (2, 2), torch.tensor([0, 2, 4, 5]))
    assert left.take(torch.arange(6).view(2, 3)).tolist() == [[0, 2], [4, 5]]
    with pytest.raises(MethodError, match="each group loses other columns"):
        left.take(torch.ones(1, 3))


@pytest.mark.parametrize("enabled", [True, False])
def test_gradients_may_be_off_and_activations_in_place(enabled: bool) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Conv2d(4, 2, 3), nn.ReLU(inplace=True))
    for parameter in net.parameters():
        parameter.requires_grad_(False)
    with torch.set_grad_enabled(enabled):
        cut = cut_and_check(net, {"0": [0, 3]})
    assert cut.attributes["0"] == {"out_channels": (4, 2)}
    assert not any(p.requires_grad for p in net.parameters())
    assert isinstance(net[1], nn.ReLU)
    assert net[1].inplace


def test_residual_connections_couple() -> None:
    net = Residual()
    graph = ChannelGraph(net, IMAGE)
    assert graph.group("norm") == graph.group("stem") == Group(("stem", "outer"), ("norm",), 6)
    cut_and_check(net, {"norm": [5], "inner": [1, 2]})
    assert shapes(net) == {
        "stem.weight": (5, 3, 3, 3),
        "stem.bias": (5,),
        "inner.weight": (2, 5, 1, 1),
        "inner.bias": (2,),
        "outer.weight": (5, 2, 1, 1),
        "outer.bias": (5,),
        "norm.weight": (5,),
        "norm.bias": (5,),
        "head.weight": (2, 5),
        "head.bias": (2,),
    }
    assert net.get_buffer("norm.running_var").shape == (5,)
    assert net.norm.num_features == 5


def test_concatenation() -> None:
    net = Dense()
    weight = net.conv2.get_parameter("weight").detach().clone()
    cut = cut_and_check(net, {"stem": [0], "conv1": [1]})
    assert torch.equal(net.conv2.get_parameter("weight"), weight[:, [1, 2, 3, 4, 6]])
    assert cut.attributes["head"] == {"in_features": (9, 7)}
    assert cut.attributes["norm2"] == {"num_features": (7, 5)}


def test_depthwise_convolutions_lose_groups() -> None:
    net = Grouped(groups=8)
    assert ChannelGraph(net, IMAGE).group("a") == Group(("a",), ("b",), 8)
    cut = cut_and_check(net, {"b": [0, 1, 5]})
    assert cut.attributes["b"] == {"in_channels": (8, 5), "out_channels": (8, 5), "groups": (8, 5)}


def test_grouped_convolutions_may_lose_other_columns_in_each_group() -> None:
    net = Grouped()
    weight = net.b.get_parameter("weight").detach().clone()
    cut = cut_and_check(net, {"a": [0, 6], "b": [3, 4]})  # inputs 0 of group 0 and 2 of group 1
    expected = torch.stack([weight[r][[1, 2, 3] if r < 4 else [0, 1, 3]] for r in (0, 1, 2, 5, 6, 7)])
    assert torch.equal(net.b.get_parameter("weight"), expected)
    assert cut.attributes["b"] == {"in_channels": (8, 6), "out_channels": (8, 6)}
    with pytest.raises(UsageError, match=r"layer 'a': each 3 channels in turn must lose as many"):
        remove_channels(net, IMAGE, {"a": [0]})


def test_grouped_transposed_convolutions() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.ConvTranspose2d(4, 6, 2, stride=2, groups=2), nn.ReLU(), nn.ConvTranspose2d(6, 2, 1)
    )
    cut = cut_and_check(net, {"0": [1, 2], "1": [0, 5]})
    assert cut.tensors["1.weight"].new == (2, 2, 2, 2)
    assert cut.tensors["3.weight"].new == (4, 2, 1, 1)


def test_flattened_images_and_ragged_widths() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 5, 3), nn.MaxPool2d(2), nn.PReLU(5), nn.Flatten(), nn.Linear(45, 7), nn.ReLU(), nn.Linear(7, 2)
    )
    cut = cut_and_check(net, {"0": [1, 4], "4": [6]})
    assert cut.attributes["4"] == {"in_features": (45, 27), "out_features": (7, 6)}
    again = cut_and_check(net, {"0": [0]})
    assert again.attributes["4"] == {"in_features": (27, 18)}


def test_a_norm_over_channels_is_cut_but_said_to_be_unproven() -> None:
    net = nn.Sequential(nn.Linear(4, 300), nn.LayerNorm(300), nn.GELU(), nn.Linear(300, 2))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn_like(parameter))
    x = torch.randn(3, 4)
    gone = list(range(1, 290))
    cut = remove_channels(net, x, {"0": gone})
    assert cut.unproven is not None
    assert cut.unproven.startswith("1 takes its statistics over channels")
    state = {n: p.detach().clone() for n, p in net.named_parameters()}
    apply(cut, net)
    kept = [0, *range(290, 300)]
    hidden = functional.linear(x, state["0.weight"][kept], state["0.bias"][kept])
    hidden = functional.layer_norm(hidden, (11,), state["1.weight"][kept], state["1.bias"][kept])
    want = functional.linear(functional.gelu(hidden), state["3.weight"][:, kept], state["3.bias"])
    torch.testing.assert_close(net(x), want)


def test_group_norm_loses_as_many_channels_in_each_group() -> None:
    net = nn.Sequential(nn.Conv2d(3, 6, 1), nn.GroupNorm(3, 6), nn.ReLU(), nn.Conv2d(6, 2, 1))
    with pytest.raises(UsageError, match="must lose as many"):
        remove_channels(net, IMAGE, {"0": [0]})
    cut = remove_channels(net, IMAGE, {"0": [0, 3, 4]})
    apply(cut, net)
    assert net(IMAGE).shape == (2, 2, 8, 8)
    assert cut.unproven is not None


def test_parameters_of_their_own() -> None:
    class LayerScale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 2)
            self.gamma = nn.Parameter(torch.arange(5.0))

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.gamma * self.a(x))  # type: ignore[no-any-return]

    net = LayerScale()
    cut_and_check(net, {"a": [1, 3]}, torch.randn(3, 4))
    assert net.gamma.tolist() == [0.0, 2.0, 4.0]


@pytest.mark.parametrize(
    ("net", "path", "says"),
    [
        (Residual(), "head", "layer 'head' can't be cut: its channels are the net's outputs"),
        (Residual(), "stm", "no layer 'stm' to cut; did you mean 'stem'"),
        (Dense(), "norm2", "layer 'norm2' can't be cut: it has no channels of its own"),
        (Strange("padded"), "a", r"its 4 channels and the 6 of b hang together in no way .*\(ConstantPadNd\)"),
        (Strange("padded"), "b", "can't be cut: its 4 channels and the 6 of b"),
        (Strange("reversed"), "a", r"channels pass through an operation that can't be followed \(Flip\)"),
        (Grouped(groups=8, outputs=16), "a", "b has groups of one channel"),
        (nn.Sequential(nn.Conv2d(3, 4, 1), nn.GroupNorm(4, 4), nn.Conv2d(4, 2, 1)), "0", "1 has groups of one"),
    ],
)
def test_refusals_name_the_layer_and_the_reason(net: nn.Module, path: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        remove_channels(net, IMAGE, {path: [0]})


def test_a_net_of_which_parts_cannot_be_followed_is_cut_elsewhere() -> None:
    net = Strange("reversed")
    groups = ChannelGraph(net, IMAGE).groups
    assert [(set(g.layers), g.reason is None) for g in groups] == [
        ({"a", "b"}, False),
        ({"c"}, True),
        ({"head"}, False),
    ]
    cut_and_check(net, {"c": [0, 1]})


def test_channels_that_are_not_there_and_the_last_one() -> None:
    with pytest.raises(UsageError, match="layer 'inner' has channels 0 to 3, not 4"):
        remove_channels(Residual(), IMAGE, {"inner": [4]})
    with pytest.raises(UsageError, match="layer 'inner' would lose all of its 4 channels"):
        remove_channels(Residual(), IMAGE, {"inner": [0, 1, 2, 3]})


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


def test_choosing_by_score_counts_ranks_and_keeps_one() -> None:
    a, b = Group(("a",), (), 4), Group(("b",), (), 2)
    scores = {a: torch.tensor([4.0, 1.0, 3.0, 2.0]), b: torch.tensor([0.2, 0.1])}
    assert choose(scores, 0.5, "global") == {"b": [1], "a": [1, 3]}
    assert choose(scores, 1.0, "global") == {"b": [1], "a": [1, 3, 2]}
    assert choose(scores, 0.5, "local") == {"a": [1, 3], "b": [1]}
    assert choose(scores, 0.0, "global") == {}


def test_choosing_takes_as_many_from_each_block() -> None:
    """Blocks (5, 1, 4) and (2, 9, 3): ranks give the pairs (1, 2) of mean 1.5 and (4, 3) of mean 3.5."""
    group = Group(("a",), (), 6, blocks=2)
    score = torch.tensor([5.0, 1.0, 4.0, 2.0, 9.0, 3.0])
    assert choose({group: score}, 0.5, "global") == {"a": [1, 3]}
    assert choose({group: score}, 0.7, "global") == {"a": [1, 3, 2, 5]}
