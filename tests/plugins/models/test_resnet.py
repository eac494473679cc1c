from __future__ import annotations

import pytest
import torch
from torch import nn

from condensery import UsageError
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


def test_the_shortcut_projects_by_a_convolution() -> None:
    """Weights 1 and 2 for two output channels of one input channel: every second pixel, once and twice."""
    block = Block(1, 2, stride=2, shortcut="conv").eval()
    with torch.no_grad():
        for parameter in (*block.bn1.parameters(), *block.bn2.parameters()):
            parameter.zero_()
        block.get_parameter("projection.0.weight").copy_(torch.tensor([1.0, 2.0])[:, None, None, None])
    x = torch.rand(1, 1, 4, 4) + 1
    wanted = torch.cat([x[:, :, ::2, ::2], 2 * x[:, :, ::2, ::2]], 1)
    torch.testing.assert_close(block(x), wanted / (1 + block.bn1.eps) ** 0.5)
    assert Block(3, 3, stride=1, shortcut="conv").projection is None


def test_a_wide_net_of_a_narrow_stem() -> None:
    """Stages of 64, 128 and 256 channels behind 32, and 100 classes.

    Convolutions have 864 + 9 (32 64 + 64 64 + 64 128 + 128 128 + 128 256 + 256 256) = 1,162,080 weights, those of
    shortcuts 32 64 + 64 128 + 128 256 = 43,008, batch norms 2 (32 + 3 (64 + 128 + 256)) = 2,752, the classifier 25,700.
    """
    net = build(TaskFacts("image", outputs=100, channels=3, size=32), "resnet8", width=4.0, stem=32, shortcut="conv")
    assert sum(p.numel() for p in net.parameters()) == 1_162_080 + 43_008 + 2_752 + 25_700


@pytest.mark.parametrize("setting", [{"shortcut": "none"}, {"stem": -1}], ids=str)
def test_a_shortcut_or_stem_that_there_is_not(setting: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=next(iter(setting))):
        build(CIFAR, "resnet8", **setting)


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
