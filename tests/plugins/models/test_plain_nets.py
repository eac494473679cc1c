"""LeNets, MLPs and VGGs: sizes, layers and arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from condensery.errors import UnknownKey, UsageError
from condensery.tasks import TaskFacts
from condensery_plugins.models import lenet, mlp, vgg, vgg_small

MNIST = TaskFacts("image", outputs=10, channels=1, size=28)
CIFAR = TaskFacts("image", outputs=10, channels=3, size=32)


def count(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def test_lenet_5_is_what_caffe_defines() -> None:
    net = lenet.build(MNIST, "lenet-5").eval()
    x = torch.randn(2, 1, 28, 28)
    state = net.state_dict()
    a = nn.functional.max_pool2d(nn.functional.conv2d(x, state["conv1.weight"], state["conv1.bias"]), 2, 2)
    a = nn.functional.max_pool2d(nn.functional.conv2d(a, state["conv2.weight"], state["conv2.bias"]), 2, 2)
    assert a.shape == (2, 50, 4, 4)
    hidden = (a.reshape(2, 800) @ state["ip1.weight"].T + state["ip1.bias"]).clamp(min=0)
    torch.testing.assert_close(net(x), hidden @ state["ip2.weight"].T + state["ip2.bias"])


def test_lenet_5_may_have_relus_behind_its_convolutions() -> None:
    """As PyTorch's own example has them; the weights are the same."""
    torch.manual_seed(0)
    plain, made = (lenet.build(MNIST, "lenet-5", rectified=rectified).eval() for rectified in (False, True))
    made.load_state_dict(plain.state_dict())
    inputs = x = torch.randn(2, 1, 28, 28)
    for layer in ("conv1", "conv2"):
        x = nn.functional.max_pool2d(made.get_submodule(layer)(x).relu(), 2)
    expected = made.get_submodule("ip2")(made.get_submodule("ip1")(x.flatten(1)).relu())
    torch.testing.assert_close(made(inputs), expected)
    assert not torch.equal(plain(inputs), made(inputs))


def test_lenet_5_of_ternary_weight_networks() -> None:
    """[28]: 32C5-MP2-64C5-MP2-512FC-10, all but the last normalized, then rectified; a norm has two vectors."""
    net = lenet.build(MNIST, "lenet-5", widths=[32, 64, 512], rectified=True, batch_norm=True).eval()
    weights = 32 * 25 + 64 * 32 * 25 + 512 * 64 * 16 + 10 * 512
    assert count(net) == weights + (32 + 64 + 512 + 10) + 2 * (32 + 64 + 512)

    inputs = x = torch.randn(2, 1, 28, 28)
    for number in (1, 2):
        norm = net.get_submodule(f"norm{number}")
        nn.init.constant_(norm.get_parameter("bias"), -0.1)
        x = nn.functional.max_pool2d(norm(net.get_submodule(f"conv{number}")(x)).relu(), 2)
    hidden = net.get_submodule("norm3")(net.get_submodule("ip1")(x.flatten(1))).relu()
    torch.testing.assert_close(net(inputs), net.get_submodule("ip2")(hidden))

    with pytest.raises(UsageError, match=r"widths is three whole numbers above 0, got \[32, 64\]"):
        lenet.build(MNIST, "lenet-5", widths=[32, 64])


@pytest.mark.parametrize(("size", "inputs"), [(16, 50), (28, 800), (32, 1250), (33, 1250)])
def test_lenet_5_fits_its_first_linear_layer_to_the_image(size: int, inputs: int) -> None:
    net = lenet.build(TaskFacts("image", outputs=4, channels=3, size=size), "lenet-5")
    assert net.get_parameter("ip1.weight").shape == (500, inputs)
    assert net(torch.randn(2, 3, size, size)).shape == (2, 4)


def test_hintons_nets() -> None:
    student = mlp.build(MNIST, "mlp")
    teacher = mlp.build(MNIST, "mlp", hidden=[1200, 1200], dropout=0.5, input_dropout=0.2)
    assert count(student) == 784 * 800 + 800 + 800 * 800 + 800 + 8010
    assert count(teacher) == 784 * 1200 + 1200 + 1200 * 1200 + 1200 + 12010
    x = torch.randn(3, 1, 28, 28)
    assert not torch.equal(teacher(x), teacher(x))
    teacher.eval()
    assert torch.equal(teacher(x), teacher(x))


def test_dropout_hits_inputs_and_hidden_units_at_their_rates() -> None:
    net = mlp.build(MNIST, "mlp", hidden=[50], dropout=0.5, input_dropout=0.2)
    seen: dict[str, float] = {}

    def share(name: str, value: torch.Tensor) -> None:
        seen[name] = (value == 0).float().mean().item()

    net.get_submodule("fc1").register_forward_pre_hook(lambda m, a: share("input", a[0]))
    net.get_submodule("fc2").register_forward_pre_hook(lambda m, a: share("hidden", a[0]))
    with torch.no_grad():
        net.get_parameter("fc1.bias").fill_(100)  # no unit is zero but for dropout
    torch.manual_seed(0)
    net(torch.ones(200, 1, 28, 28))
    assert seen["input"] == pytest.approx(0.2, abs=0.01)
    assert seen["hidden"] == pytest.approx(0.5, abs=0.03)


def test_mlp_settings() -> None:
    assert count(mlp.build(MNIST, "mlp", hidden=[])) == 7850
    assert count(mlp.build(MNIST, "mlp", hidden=[10, 20], width=0.5)) == 785 * 5 + 6 * 10 + 11 * 10
    with pytest.raises(UsageError, match="hidden is a list of whole numbers above 0"):
        mlp.build(MNIST, "mlp", hidden=[10, -1])


def test_mlp_activations_by_the_formula() -> None:
    net = mlp.build(TaskFacts("vector", outputs=2, size=5), "mlp", hidden=[3], activation="tanh", output="sigmoid")
    state, x = net.state_dict(), torch.randn(4, 5)
    hidden = torch.tanh(x @ state["fc1.weight"].T + state["fc1.bias"])
    expected = torch.sigmoid(hidden @ state["fc2.weight"].T + state["fc2.bias"])
    torch.testing.assert_close(net(x), expected)
    with pytest.raises(UnknownKey, match="unknown activation 'sigmoyd'; did you mean 'sigmoid'"):
        mlp.build(MNIST, "mlp", activation="sigmoyd")


def test_an_mlp_may_normalize_its_outputs_too() -> None:
    """Three examples whose one output is 1000, 2000, 3000: mean 2000, deviation 1000 sqrt(2/3), so +-sqrt(3/2), 0."""
    net = mlp.build(TaskFacts("vector", outputs=1, size=1), "mlp", hidden=[], output_norm=True)
    torch.nn.init.constant_(net.get_parameter("fc1.weight"), 1000)
    found = net(torch.tensor([[1.0], [2.0], [3.0]])).flatten().tolist()
    assert found == pytest.approx([-(1.5**0.5), 0, 1.5**0.5], abs=1e-3)

    plain = mlp.build(MNIST, "mlp", hidden=[5], batch_norm=True)
    assert {n for n, m in plain.named_modules() if isinstance(m, nn.BatchNorm1d)} == {"norm1"}
    whole = mlp.build(MNIST, "mlp", hidden=[5], batch_norm=True, output_norm=True)
    assert {n for n, m in whole.named_modules() if isinstance(m, nn.BatchNorm1d)} == {"norm1", "norm2"}


@pytest.mark.parametrize(("name", "published"), [("vgg16-bn", 14_728_266), ("vgg19-bn", 20_040_522)])
def test_vgg_has_the_published_parameters_but_for_the_convolutions_biases(name: str, published: int) -> None:
    net = vgg.build(CIFAR, name)
    convolutions = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == int(name[3:5]) - 3  # three linear layers are one here
    assert count(net) == published - sum(m.out_channels for m in convolutions)


@pytest.mark.parametrize(("size", "poolings", "last"), [(32, 4, 2), (28, 4, 1), (16, 4, 1), (8, 3, 1)])
def test_vgg_leaves_out_the_first_poolings_on_small_images(size: int, poolings: int, last: int) -> None:
    net = vgg.build(TaskFacts("image", outputs=10, channels=3, size=size), "vgg16-bn", width=0.05)
    features = net.get_submodule("features")
    assert sum(isinstance(m, nn.MaxPool2d) for m in features.children()) == poolings
    x = torch.randn(2, 3, size, size)
    assert features(x).shape[2:] == (last, last)
    assert net(x).shape == (2, 10)
    large = vgg.build(CIFAR, "vgg16-bn", width=0.05)
    assert set(net.state_dict()) == set(large.state_dict()), "weights fit images of all sizes"


def test_vgg_with_channels_of_its_own() -> None:
    channels = list(range(3, 16))
    net = vgg.build(CIFAR, "vgg16-bn", channels=channels)
    assert [m.out_channels for m in net.modules() if isinstance(m, nn.Conv2d)] == channels
    with pytest.raises(UsageError, match="channels has 2 numbers, the net 13 convolutions"):
        vgg.build(CIFAR, "vgg16-bn", channels=[3, 4])


CONVOLUTIONS = 9 * (3 * 128 + 128 * 128 + 128 * 256 + 256 * 256 + 256 * 512 + 512 * 512)
"""Weights of the six, 4,574,592; behind them are 512 x 4 x 4 positions."""


@pytest.mark.parametrize(
    ("hidden", "linear", "units"),
    [
        ([], 8192 * 10, 0),
        ([1024], 8192 * 1024 + 1024 * 10, 1024),
        ([1024, 1024], 8192 * 1024 + 1024 * 1024 + 1024 * 10, 2048),
    ],
)
def test_small_vggs_have_the_weights_of_their_papers(hidden: list[int], linear: int, units: int) -> None:
    """VGG-small has 4.66 million parameters, BinaryConnect's net 14.0 million weights; each norm has two vectors."""
    net = vgg_small.build(CIFAR, "vgg-small", hidden=hidden)
    assert count(net) == CONVOLUTIONS + linear + 10 + 2 * (2 * (128 + 256 + 512) + units)
    assert net(torch.randn(2, 3, 32, 32)).shape == (2, 10)


def test_a_small_vgg_pools_what_its_convolution_gives() -> None:
    """A maximum of signs would be 1 nearly everywhere, so the norm and the activation stand behind the pooling."""
    net = vgg_small.build(CIFAR, "vgg-small", width=0.05, activation="hardtanh", output_norm=True)
    kinds = [type(m).__name__ for m in net.get_submodule("features").children()]
    assert kinds[:7] == ["Conv2d", "BatchNorm2d", "Hardtanh", "Conv2d", "MaxPool2d", "BatchNorm2d", "Hardtanh"]
    assert kinds == kinds[:7] * 3
    logits = net(torch.randn(64, 3, 32, 32))
    torch.testing.assert_close(logits.mean(0), torch.zeros(10), atol=1e-5, rtol=0)
    with pytest.raises(UnknownKey, match="unknown activation 'hartanh'; did you mean 'hardtanh'"):
        vgg_small.build(CIFAR, "vgg-small", activation="hartanh")
    with pytest.raises(UsageError, match="hidden is a list of whole numbers above 0"):
        vgg_small.build(CIFAR, "vgg-small", hidden=[0])


def test_vgg_with_a_hidden_layer_is_the_net_of_filter_pruning() -> None:
    """[14]: 13 convolutions, FC 512 and FC 10: 14,977,728 weights; each norm has scale and shift."""
    net = vgg.build(CIFAR, "vgg16-bn", hidden=512)
    assert count(net) == 14_977_728 + 2 * (4224 + 512) + 10
    assert net(torch.randn(2, 3, 32, 32)).shape == (2, 10)
    narrow = vgg.build(CIFAR, "vgg16-bn", width=0.25, hidden=512)
    assert narrow.get_parameter("classifier.weight").shape == (10, 128)


@pytest.mark.parametrize(
    ("build", "name", "settings"),
    [(lenet.build, "lenet-5", {}), (mlp.build, "mlp", {"hidden": [5]}), (vgg.build, "vgg16-bn", {"width": 0.1})],
)
def test_images_may_be_wider_than_high(build: Callable[..., nn.Module], name: str, settings: dict[str, Any]) -> None:
    facts = TaskFacts("image", outputs=4, channels=3, height=16, width=40)
    assert build(facts, name, **settings).eval()(torch.randn(2, 3, 16, 40)).shape == (2, 4)
