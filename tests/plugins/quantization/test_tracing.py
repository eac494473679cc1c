from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from condensery import Registry
from condensery.nets import build_net
from condensery.recipe import ModelSpec, TaskSpec
from condensery.tasks import Batch, build_task
from condensery_plugins.quantization.tracing import Site, trace


class Net(nn.Module):
    """Built from a function of its layers, to try one connection at a time."""

    def __init__(self, play: str) -> None:
        super().__init__()
        self.conv, self.norm, self.last = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Conv2d(2, 2, 1)
        self.play = play

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = getattr(self, self.play)(x)
        return out

    def plain(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.norm(self.conv(x))))  # type: ignore[no-any-return]

    def shortcut(self, x: Tensor) -> Tensor:
        """The activation has two takers, which is no obstacle."""
        out = nn.functional.relu(self.norm(self.conv(x)))
        return self.last(out) + out  # type: ignore[no-any-return]

    def in_place(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.conv(x)).relu_())  # type: ignore[no-any-return]

    def added_in_place(self, x: Tensor) -> Tensor:
        out = self.norm(self.conv(x))
        out += 1
        return self.last(torch.relu(out))  # type: ignore[no-any-return]

    def shared(self, x: Tensor) -> Tensor:
        """The convolution's output itself is used besides."""
        out = self.conv(x)
        return self.last(torch.relu(self.norm(out)) + out)  # type: ignore[no-any-return]

    def normed_twice(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.norm(self.conv(x))))  # type: ignore[no-any-return]

    def pooled(self, x: Tensor) -> Tensor:
        return self.last(nn.functional.max_pool2d(torch.relu(self.norm(self.conv(x))), 2))  # type: ignore[no-any-return]

    def six(self, x: Tensor) -> Tensor:
        return self.last(nn.ReLU6()(self.conv(x)))  # type: ignore[no-any-return]

    def smooth(self, x: Tensor) -> Tensor:
        return self.last(nn.functional.gelu(self.norm(self.conv(x))))  # type: ignore[no-any-return]

    def other_norm(self, x: Tensor) -> Tensor:
        return self.last(nn.functional.batch_norm(self.conv(x), torch.zeros(2), torch.ones(2)))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("play", "first", "source"),
    [
        ("plain", Site("norm", "relu"), "conv"),
        ("shortcut", Site("norm", "relu"), "conv"),
        ("in_place", Site("norm", "relu"), "conv"),
        ("pooled", Site("norm", "relu"), "conv"),
        ("added_in_place", Site("norm"), None),
        ("shared", Site(shaped=True), None),
        ("normed_twice", Site(shaped=True), None),
        ("six", Site(None, "relu6"), "conv"),
        ("smooth", Site("norm", shaped=True), None),
        ("other_norm", Site(shaped=True), None),
    ],
)
def test_connections(play: str, first: Site, source: str | None) -> None:
    net = Net(play).eval()
    found = trace(net, lambda: net(torch.randn(2, 1, 6, 6)))
    assert found == {"conv": first, "last": Site(source=source)}
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


@pytest.mark.parametrize("setting", [{"affine": False}, {"track_running_stats": False}, {"momentum": None}])
def test_a_norm_without_what_folding_needs_stays(setting: dict[str, bool | None]) -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2, **setting), nn.ReLU()).eval()  # type: ignore[arg-type]
    assert trace(net, lambda: net(torch.randn(2, 1, 6, 6))) == {"0": Site(shaped=True)}


def test_layers_of_other_kinds_are_left_out() -> None:
    class Own(nn.Linear):
        pass

    net = nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1, padding_mode="circular"), nn.Flatten(), Own(72, 3), nn.Linear(3, 2)
    )
    net.append(nn.Sequential())
    assert list(trace(net.eval(), lambda: net(torch.randn(2, 1, 6, 6)))) == ["3"]


def test_a_layer_called_twice_keeps_its_norm() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.norm = nn.Linear(3, 3), nn.BatchNorm1d(3)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(torch.relu(self.norm(self.layer(x))))  # type: ignore[no-any-return]

    net = Twice().eval()
    assert trace(net, lambda: net(torch.randn(2, 3))) == {"layer": Site(shaped=True)}


@pytest.mark.parametrize(
    ("model", "task", "norms", "shaped", "linked"),
    [
        ("resnet8", "digits", 7, 0, 4),
        ("vit", "digits", 0, 2, 0),
        ("transformer", "word-language", 0, 3, 0),
        ("vgg16-bn", "digits", 13, 0, 12),
    ],
)
def test_built_in_nets(model: str, task: str, norms: int, shaped: int, linked: int) -> None:
    """ViT: fc1 stands before a GELU; BERT: also the pooler before a tanh. ResNet: a block's sum breaks the chain."""
    registry = Registry.open()
    given = build_task(TaskSpec(key=task), registry)
    net = build_net(ModelSpec(key=model, width=0.5), given.facts, registry, 0).eval()
    found = trace(net, lambda: given.outputs(net, Batch(given.example(2)))).values()
    assert sum(s.norm is not None for s in found) == norms
    assert sum(s.shaped for s in found) == shaped
    assert sum(s.source is not None for s in found) == linked
