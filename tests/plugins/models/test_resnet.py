from __future__ import annotations

import pytest
import torch
from torch import nn

from condensery.tasks import TaskFacts
from condensery_plugins.models.resnet import Block, ResNet, build

CIFAR = TaskFacts("image", outputs=10, channels=3, size=32)


def made(name: str, width: float = 1.0) -> ResNet:
    net = build(CIFAR, name, width=width)
    assert isinstance(net, ResNet)
    return net


@pytest.mark.parametrize("depth", [8, 20, 110])
def test_the_name_says_how_many_weighted_layers_there_are(depth: int) -> None:
    layers = [m for m in made(f"resnet{depth}", 0.25).modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(layers) == depth


def test_resnet110_has_the_published_number_of_parameters() -> None:
    assert sum(p.numel() for p in made("resnet110").parameters()) == 1_727_962


def test_tensors_have_the_published_names() -> None:
    names = set(made("resnet8").state_dict())
    wanted = {"conv1.weight", "linear.weight", "linear.bias"}
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    wanted |= {f"bn1.{n}" for n in norm}
    for stage in (1, 2, 3):
        wanted |= {f"layer{stage}.0.conv{i}.weight" for i in (1, 2)}
        wanted |= {f"layer{stage}.0.bn{i}.{n}" for i in (1, 2) for n in norm}
    assert names == wanted


@pytest.mark.parametrize(("before", "after"), [(2, 4), (2, 5)])
def test_the_shortcut_takes_every_second_pixel_and_pads_channels(before: int, after: int) -> None:
    block = Block(before, after, stride=2).eval()
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.zero_()  # the convolutions' path adds nothing
    x = torch.rand(1, before, 6, 6) + 1
    out = block(x)
    first = (after - before) // 2
    assert out.shape == (1, after, 3, 3)
    assert torch.equal(out[:, first : first + before], x[:, :, ::2, ::2])
    assert out.count_nonzero() == before * 9


def test_a_block_of_one_size_adds_its_input() -> None:
    block = Block(3, 3, stride=1).eval()
    x = torch.randn(2, 3, 5, 5)
    inner = block.bn2(block.conv2(block.bn1(block.conv1(x)).relu()))
    assert torch.equal(block(x), (inner + x).relu())


@pytest.mark.parametrize(("channels", "size"), [(1, 8), (3, 9), (4, 28)])
def test_any_channels_and_sizes(channels: int, size: int) -> None:
    net = build(TaskFacts("image", outputs=5, channels=channels, size=size), "resnet8")
    assert net(torch.randn(2, channels, size, size)).shape == (2, 5)


def test_width_scales_every_stage() -> None:
    net = made("resnet8", width=0.5)
    assert [net.get_parameter(f"layer{i}.0.conv2.weight").shape[0] for i in (1, 2, 3)] == [8, 16, 32]
    assert net.linear.in_features == 32
