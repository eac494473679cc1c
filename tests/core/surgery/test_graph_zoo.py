"""Cuts of usual image nets with random weights: half of every group goes, and what is left runs and exports."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from condensery import Registry
from condensery.nets import build_net
from condensery.recipe import ModelSpec
from condensery.storage import bake, save_artifact
from condensery.surgery import ChannelGraph, apply, choose, randomize
from condensery.tasks import TaskFacts

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
FACTS = TaskFacts("image", outputs=10, channels=3, size=64)
LOADER = """
import sys, torch, condensery
from safetensors.torch import load_file
torch.set_num_threads(1)
kept = load_file(sys.argv[2])
with torch.no_grad():
    assert torch.equal(condensery.load(sys.argv[1])(kept["image"]), kept["logits"])
"""
IMAGE = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def macs(net: nn.Module) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(IMAGE)
    return int(counter.get_total_flops()) // 2


@pytest.mark.parametrize("name", [*FAST, *(pytest.param(n, marks=pytest.mark.slow) for n in SLOW)])
def test_half_of_every_group_goes(name: str, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    registry, spec = Registry.open(), ModelSpec(key=f"timm/{name}")
    net = build_net(spec, FACTS, registry, 0).eval()
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
    baked = bake(net, registry)
    path, kept = tmp_path / "a.safetensors", tmp_path / "kept.safetensors"
    save_artifact(path, baked, spec, FACTS, registry)
    with torch.no_grad():
        save_file({"image": IMAGE, "logits": baked.net(IMAGE).contiguous()}, kept)
    subprocess.run([sys.executable, "-c", LOADER, str(path), str(kept)], check=True)
    net.train()(IMAGE).sum().backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in net.parameters())
