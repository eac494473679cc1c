"""Cuts of usual image nets with random weights: half of every group goes, and what is left runs and exports."""

from __future__ import annotations

import warnings

import pytest
import timm
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from condensery.channels import randomize
from condensery.cuts import apply
from condensery.surgeon import choose
from condensery.surgery import ChannelGraph

FAST = ("resnet18", "mobilenetv3_small_100")
SLOW = ("resnet50", "mobilenetv2_100", "efficientnet_b0", "densenet121", "convnext_tiny", "regnety_008")
GROUPS = {
    "resnet18": 12,
    "mobilenetv3_small_100": 27,
    "resnet50": 37,
    "mobilenetv2_100": 25,
    "efficientnet_b0": 40,
    "densenet121": 120,
    "convnext_tiny": 22,
    "regnety_008": 47,
}
IMAGE = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def macs(net: nn.Module) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(IMAGE)
    return int(counter.get_total_flops()) // 2


@pytest.mark.parametrize("name", [*FAST, *(pytest.param(n, marks=pytest.mark.slow) for n in SLOW)])
def test_half_of_every_group_goes(name: str) -> None:
    torch.set_num_threads(1)
    net = timm.create_model(name).eval()
    randomize(net, torch.Generator().manual_seed(1))
    before, classes = macs(net), {n: type(m) for n, m in net.named_modules()}
    graph = ChannelGraph(net, IMAGE)
    groups = [g for g in graph.groups if g.reason is None]
    assert len(groups) == GROUPS[name]
    assert [g.reason for g in graph.groups if g.reason is not None] == ["its channels are the net's outputs"]
    scores = {g: net.get_parameter(f"{g.layers[0]}.weight").detach().abs().flatten(1).sum(1) for g in groups}
    cut = graph.cut(choose(scores, 0.5, "local"))
    assert cut.difference is not None
    assert cut.difference <= 1e-9
    assert (cut.unproven is not None) == (name == "convnext_tiny")
    apply(cut, net)
    assert {n: type(m) for n, m in net.named_modules()} == classes
    assert before / macs(net) > 3
    with torch.no_grad():
        want = net(IMAGE)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exported = torch.export.export(net, (IMAGE,)).module()
        torch.testing.assert_close(exported(IMAGE), want, atol=1e-5 * float(want.abs().max()), rtol=0)
    net.train()(IMAGE).sum().backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in net.parameters())
