from __future__ import annotations

import torch
from torch import nn

from condensery import Registry
from condensery.nets import attach, attached, plain
from condensery.surgery import Channels, Cut
from condensery_plugins.pruning.channel_selection import ChannelSelection, selection


def test_it_picks_channels_by_index() -> None:
    image = torch.arange(24.0).view(1, 4, 2, 3)
    assert torch.equal(selection(torch.tensor([3, 1]), -3)(image), image[:, [3, 1]])
    rows = torch.arange(8.0).view(2, 4)
    assert selection(torch.tensor([0, 2]), -1)(rows).tolist() == [[0.0, 2.0], [4.0, 6.0]]


def test_a_checkpoint_builds_it_again() -> None:
    made = selection(torch.tensor([5, 2, 4]), -3)
    again = Registry.open().load("layers", "channel-selection")(**made.config())
    assert isinstance(again, ChannelSelection)
    assert made.config() == {"channels": 3, "axis": -3}
    again.load_state_dict(made.state_dict())
    assert again.index.tolist() == [5, 2, 4]


def test_it_narrows_with_its_layer() -> None:
    made = selection(torch.tensor([5, 2, 4]), -3)
    cut = Cut({}, {}, {"conv:input": Channels(3, torch.tensor([0, 2]), -3)})
    made.resize(lambda value: cut.take_site("conv:input", value))
    assert made.index.tolist() == [5, 4]
    assert made.config()["channels"] == 2


def test_it_stays_on_a_plain_copy_because_the_net_needs_it() -> None:
    net = nn.Sequential(nn.Identity(), nn.Conv2d(2, 1, 1))
    attach(net, "1:input", "channel-selection", selection(torch.tensor([0, 3]), -3))
    twin, x = plain(net), torch.randn(1, 4, 2, 2)
    assert [a.target for a in attached(twin)] == ["1:input"]
    assert torch.equal(twin(x), net[1].forward(x[:, [0, 3]]))
