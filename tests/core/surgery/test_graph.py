"""Which channels hang together, and what a cut of some leaves of a net's outputs."""

from __future__ import annotations

import pytest
import torch
from tests.core.surgery.cut_nets import IMAGE, Dense, Grouped, Residual, Strange, cut_and_check, shapes
from torch import Tensor, nn
from torch.nn import functional

from condensery.errors import UsageError
from condensery.surgery import ChannelGraph, Group, apply, remove_channels


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


class Halved(nn.Module):
    """Computes half of itself in half precision: a cut of it can't be proven."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 3).to(torch.bfloat16)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(self.first(x).to(torch.bfloat16))
        return y.float()


def test_a_net_that_computes_in_half_precision_is_refused() -> None:
    Halved()(IMAGE)  # it runs as it is
    with pytest.raises(UsageError, match=r"in float64 or float32, and the net runs in neither: .*BFloat16"):
        ChannelGraph(Halved(), IMAGE)


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


class Recurrent(nn.Module):
    """Two convolutions and an LSTM over the columns."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 6, 1)
        self.lstm = nn.LSTM(6, 5, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        seen = self.second(self.first(x).relu()).mean(2).transpose(1, 2)
        return self.lstm(seen)[0]  # type: ignore[no-any-return]


def test_what_cant_be_followed_is_a_groups_reason_and_stops_no_other() -> None:
    net = Recurrent()
    graph = ChannelGraph(net, IMAGE)
    assert graph.group("first") == Group(("first",), (), 4)
    with pytest.raises(UsageError, match=r"layer 'second' can't be cut: where its channels go can't be followed \("):
        graph.group("second")
    cut_and_check(net, {"first": [1, 3]})


def test_one_slope_for_all_channels_is_no_channel() -> None:
    net = nn.Sequential(nn.Conv2d(3, 6, 1), nn.PReLU(), nn.Conv2d(6, 2, 1), nn.Flatten())
    cut_and_check(net, {"0": [0, 2, 5]})
    assert net[1].get_parameter("weight").shape == (1,)
    assert ChannelGraph(net, IMAGE).readers("0") == ["2"]


class Heads(nn.Module):
    """Two outputs of two convolutions; the second one turns the channels round, or is what they write."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.a, self.b, self.aux = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor, shift: Tensor) -> dict[str, Tensor]:
        seen = self.a(x + shift)
        other = {"plain": seen, "turned": seen.flip(1), "told": seen}[self.kind]
        return {"logits": self.b(seen), "aux": other if self.kind == "told" else self.aux(other)}


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("plain", None),
        ("turned", "its channels pass through an operation that can't be followed (Flip)"),
        ("told", "its channels are the net's outputs"),
    ],
)
def test_all_outputs_are_compared_and_inputs_may_be_several(kind: str, reason: str | None) -> None:
    example = IMAGE, torch.ones(1)
    graph = ChannelGraph(Heads(kind), example, lambda net, inputs: net(*inputs))
    assert {g.layers[0]: g.reason for g in graph.groups}["a"] == reason
    if reason is None:
        cut = graph.cut({"a": [1]})
        assert cut.attributes["aux"] == {"in_channels": (4, 3)}
        assert cut.difference is not None
        assert cut.difference < 1e-9
        assert graph.fits(Heads(kind), example)


def test_where_a_net_cant_be_traced_each_group_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **settings: object) -> None:
        raise AttributeError("'NoneType' object has no attribute 'grad_fn'")

    monkeypatch.setattr("torch_pruning.DependencyGraph.build_dependency", fail)
    groups = ChannelGraph(Residual(), IMAGE).groups
    why = "where its channels go can't be followed (AttributeError: 'NoneType' object has no attribute 'grad_fn')"
    assert len(groups) > 1
    assert {group.reason for group in groups} == {why}
