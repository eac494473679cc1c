"""Registered layers and the surgeon, which cuts stand-ins in their places."""

from __future__ import annotations

import pytest
import torch
from tests.core.surgery.cut_nets import Gained, shapes
from torch import nn

from condensery.errors import UsageError
from condensery.nets import Layer, StandIn, attach, attached, put_stand_ins
from condensery.surgery import ChannelGraph, Group, apply, remove_channels
from condensery_plugins.pruning.channel_selection import selection


def gained() -> nn.Sequential:
    """1 -> 3 -> 1 channels: weights 1, 2 * 2 and 3, shifts 0, 0 and 1; then 1, 10 and 100."""
    net = nn.Sequential(Gained(1, 3), nn.ReLU(), nn.Linear(3, 1, bias=False))
    net.load_state_dict(
        {
            "0.latent": torch.tensor([[1.0], [2.0], [3.0]]),
            "0.gain": torch.tensor([[1.0], [2.0], [1.0]]),
            "0.shift": torch.tensor([0.0, 0.0, 1.0]),
            "2.weight": torch.tensor([[1.0, 10.0, 100.0]]),
        }
    )
    return net


def test_a_strangers_layer_is_cut_as_its_stand_in() -> None:
    """x = 2: hidden 2, 8, 7. All: 2 + 80 + 700 = 782; without channel 1: 702."""
    net, x = gained(), torch.tensor([[2.0]])
    assert net(x).item() == 782.0
    assert ChannelGraph(net, x).group("0") == Group(("0",), (), 3)
    cut = remove_channels(net, x, {"0": [1]})
    assert isinstance(net[0], Gained), "the net itself is not changed"
    assert cut.difference == 0.0
    apply(cut, net)
    assert net(x).item() == 702.0
    assert shapes(net) == {"0.latent": (2, 1), "0.gain": (2, 1), "2.weight": (1, 2)}
    assert net.get_buffer("0.shift").tolist() == [0.0, 1.0]
    assert isinstance(net[0], Gained)
    assert net[0].config() == {"in_features": 1, "out_features": 2}


def test_its_inputs_are_cut_too() -> None:
    """x = 1: 5, 6 and 7 of the first layer; 1 * 5 + 3 * 7 = 26 are left of 1 * 5 + 2 * 6 + 3 * 7 = 38."""
    net, x = nn.Sequential(nn.Linear(1, 3, bias=False), Gained(3, 1), nn.Identity()), torch.ones(1, 1)
    net[0].load_state_dict({"weight": torch.tensor([[5.0], [6.0], [7.0]])})
    assert net(x).item() == 38.0
    apply(remove_channels(net, x, {"0": [1]}), net)
    assert net(x).item() == 26.0
    assert shapes(net) == {"0.weight": (2, 1), "1.latent": (1, 2), "1.gain": (1, 1)}


def test_what_reshapes_its_input_stays_in_front_of_the_stand_in() -> None:
    net, x = nn.Sequential(nn.Linear(2, 4), *gained()), torch.randn(3, 2)
    attach(net, "1:input", "selection", selection(torch.tensor([2]), -1))
    want = net(x)
    put_stand_ins(net)
    assert type(net[1]) is nn.Linear
    assert [(a.target, a.name) for a in attached(net)] == [("1:input", "selection")]
    torch.testing.assert_close(net(x), want)


def test_a_layer_in_two_places_has_one_stand_in() -> None:
    shared = Gained(3, 3)
    net = nn.Sequential(shared, nn.ReLU(), shared)
    names = put_stand_ins(net)
    assert net[0] is net[2]
    assert type(net[0]) is nn.Linear
    assert names == {
        "0.weight": ["0.latent", "0.gain"],
        "0.bias": ["0.shift"],
        "2.weight": ["2.latent", "2.gain"],
        "2.bias": ["2.shift"],
    }


def test_a_layer_without_a_stand_in_is_refused() -> None:
    class Closed(Gained):
        def stand_in(self) -> StandIn | None:  # type: ignore[override]
            return Layer.stand_in(self)

    net = nn.Sequential(Closed(1, 3), nn.ReLU(), nn.Linear(3, 1))
    with pytest.raises(UsageError, match="layer '0' can't be cut: it has no channels of its own"):
        remove_channels(net, torch.ones(1, 1), {"0": [1]})
