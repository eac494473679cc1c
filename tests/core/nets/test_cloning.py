from __future__ import annotations

import gc
import weakref

import torch
from tests.core.helpers import Sign
from torch import nn

from condensery.nets import attach, clone, detach, same_numbers


def test_a_clone_shares_nothing() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True))
    attach(net, "0.weight", "sign", Sign())
    attach(net, "0:output", "out", Sign())
    before = {k: v.clone() for k, v in net.state_dict().items()}
    twin = clone(net)
    assert same_numbers(net, twin)
    assert twin[1].inplace is False  # type: ignore[index]
    detach(twin, "0.weight", "sign")
    detach(twin, "0:output", "out")
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert net.state_dict().keys() == before.keys()
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())

    assert len(torch.unique(getattr(net[0], "weight"))) <= 3  # noqa: B009
    net(torch.randn(2, 4)).sum().backward()


def test_a_net_with_transforms_goes_as_soon_as_nobody_holds_it() -> None:
    net = nn.Linear(2, 2)
    attach(net, "weight", "sign", Sign())
    twin = clone(net)
    held = [weakref.ref(module) for module in (net, twin)]

    gc.collect()
    gc.disable()
    try:
        del net, twin
        assert [ref() for ref in held] == [None, None]
    finally:
        gc.enable()
