"""Small nets that the tests of cuts share, and a check of what a cut leaves of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from condensery.nets import Layer, StandIn, plain
from condensery.surgery import Cut, apply, remove_channels

IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.inner = nn.Conv2d(6, 4, 1)
        self.outer = nn.Conv2d(4, 6, 1)
        self.norm = nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.norm(self.outer(torch.relu(self.inner(x))))
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


class Dense(nn.Module):
    """Two steps that add their channels to what they read."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.norm1, self.conv1 = nn.BatchNorm2d(4), nn.Conv2d(4, 3, 3, padding=1)
        self.norm2, self.conv2 = nn.BatchNorm2d(7), nn.Conv2d(7, 2, 1)
        self.head = nn.Linear(9, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.cat([x, self.conv1(torch.relu(self.norm1(x)))], 1)
        x = torch.cat([x, self.conv2(torch.relu(self.norm2(x)))], 1)
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


class Strange(nn.Module):
    """Channels that no dependency graph follows: reversed, then added; padded; shown as the output."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 6 if how == "padded" else 4, 1)
        self.c, self.head = nn.Conv2d(6 if how == "padded" else 4, 5, 1), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        y = self.b(torch.relu(x))
        x = functional.pad(x, (0, 0, 0, 0, 1, 1)) if self.how == "padded" else x.flip(1)
        return self.head(torch.relu(self.c(torch.relu(x + y))).mean((2, 3)))  # type: ignore[no-any-return]


class Grouped(nn.Module):
    def __init__(self, groups: int = 2, outputs: int = 8) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1)
        self.b = nn.Conv2d(8, outputs, 3, padding=1, groups=groups)
        self.c = nn.Conv2d(outputs, 4, 1)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.b(torch.relu(self.a(x))))
        return self.head(torch.relu(self.c(x)).mean((2, 3)))  # type: ignore[no-any-return]


def two_convolutions() -> nn.Sequential:
    """1x1 convolutions on one channel: 1 -> 3 -> 2, with weights that are whole numbers."""
    net = nn.Sequential(nn.Conv2d(1, 3, 1), nn.ReLU(), nn.Conv2d(3, 2, 1))
    state = {
        "0.weight": torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1, 1),
        "0.bias": torch.tensor([0.5, -1.0, 0.0]),
        "2.weight": torch.tensor([[1.0, 10.0, 100.0], [2.0, 20.0, 200.0]]).view(2, 3, 1, 1),
        "2.bias": torch.tensor([0.0, 7.0]),
    }
    net.load_state_dict(state)
    return net


class Gained(Layer):
    """A stranger's linear layer: its weight is a latent one times a gain for each row, its bias is called shift."""

    key = "test-gained"

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.latent = nn.Parameter(torch.arange(1.0, 1 + in_features * out_features).view(out_features, in_features))
        self.gain = nn.Parameter(torch.ones(out_features, 1))
        self.register_buffer("shift", torch.zeros(out_features))

    def config(self) -> dict[str, Any]:
        return {"in_features": self.in_features, "out_features": self.out_features}

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.latent * self.gain, self.get_buffer("shift"))

    def stand_in(self) -> StandIn:
        made = nn.Linear(self.in_features, self.out_features)
        made.load_state_dict({"weight": self.latent * self.gain, "bias": self.get_buffer("shift")})
        return StandIn(made, {"weight": ("latent", "gain"), "bias": ("shift",)})


def shapes(net: nn.Module) -> dict[str, tuple[int, ...]]:
    return {n: tuple(p.shape) for n, p in net.named_parameters()}


def cut_and_check(net: nn.Module, removed: dict[str, list[int]], x: Tensor = IMAGE) -> Cut:
    """Cut a net and compare its outputs, in float32, with those of a copy whose removed entries are zero."""
    cut = remove_channels(net, x, removed)
    want = plain(net).eval()
    with torch.no_grad():
        for name, left in cut.tensors.items():
            parameter = dict(want.named_parameters()).get(name)
            if parameter is not None:
                keep = torch.zeros(parameter.numel())
                keep[left.kept] = 1
                parameter.mul_(keep.view_as(parameter))
    apply(cut, net)
    torch.testing.assert_close(net.eval()(x), want(x), atol=1e-5, rtol=0)
    assert cut.difference is not None
    assert cut.difference <= 1e-9
    return cut
