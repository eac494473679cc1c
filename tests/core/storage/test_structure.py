"""A changed net is described by its difference from a fresh one, and rebuilt from it."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from tests.core.helpers import offering
from torch import nn

from condensery import PluginError, Registry
from condensery.errors import ArtifactError
from condensery.nets import Layer, replace
from condensery.storage import load_tensors, restructure, structure_of, tensors_of


class Doubled(Layer):
    """A linear layer that doubles."""

    key = "test-doubled"

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.inner = nn.Linear(size, size)

    def config(self) -> dict[str, Any]:
        return {"size": self.size}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * self.inner(x)  # type: ignore[no-any-return]


REGISTRY = Registry.open([("test", offering(layers={"test-doubled": Doubled}))])


class Net(nn.Module):
    """Attributes of several kinds, a container, a table that isn't saved, tied parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.window, self.names = 0.5, (7, 7), ["a", "b"]
        self.conv = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.blocks = nn.Sequential(*[nn.Conv2d(8, 8, 1) for _ in range(3)])
        self.head, self.tail = nn.Linear(8, 8), nn.Linear(8, 8)
        self.tail.weight = self.head.weight
        self.register_buffer("table", torch.arange(4.0), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.blocks(self.conv(x) * self.scale).mean((2, 3))
        return self.tail(self.head(x)) + self.table.sum()  # type: ignore[no-any-return, operator]


def net(seed: int) -> Net:
    torch.manual_seed(seed)
    return Net().eval()


def rebuilt(model: nn.Module) -> tuple[nn.Module, dict[str, Any]]:
    data = json.loads(json.dumps(structure_of(model, net(1), REGISTRY).dump()))
    again = restructure(net(2), data, REGISTRY, "here")
    load_tensors(again, tensors_of(model), "here")
    return again, data


def assert_same(left: nn.Module, right: nn.Module) -> None:
    x = torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(left(x), right(x))


def test_an_unchanged_net_has_no_differences() -> None:
    again, data = rebuilt(net(0))
    assert data == {}
    assert_same(net(0), again)


def test_cut_channels_a_removed_block_a_new_bias_and_attributes() -> None:
    model = net(0)
    model.conv.weight = nn.Parameter(model.conv.weight[:5].detach())
    model.conv.out_channels = 5
    model.conv.bias = nn.Parameter(torch.randn(5))
    model.blocks[0].weight = nn.Parameter(model.blocks[0].weight[:, :5].detach())  # type: ignore[index]
    model.blocks[0].in_channels = 5  # type: ignore[assignment]
    model.blocks[2].bias = None  # type: ignore[assignment]
    del model.blocks[1]
    model.scale, model.window, model.names = 0.25, (3, 7), ["c"]
    model.table = torch.arange(6.0)
    again, data = rebuilt(model)
    assert data["shapes"] == {
        "table": [6],
        "conv.weight": [5, 3, 3, 3],
        "conv.bias": [5],
        "blocks.0.weight": [8, 5, 1, 1],
        "blocks.1.bias": None,
    }
    assert data["children"] == {"blocks": ["0", "1"]}
    assert data["attributes"][""] == {"scale": 0.25, "window": {"$tuple": [3, 7]}, "names": ["c"]}
    assert isinstance(again.window, tuple)
    assert again.tail.weight is again.head.weight  # type: ignore[union-attr]
    assert_same(model, again)


def test_a_registered_layer_and_an_identity() -> None:
    model = net(0)
    replace(model, "head", Doubled(8))
    replace(model, "blocks.1", nn.Identity())
    again, data = rebuilt(model)
    assert data["layers"] == {"blocks.1": {"key": "identity"}, "head": {"key": "test-doubled", "config": {"size": 8}}}
    assert_same(model, again)


def test_a_reshaped_tied_parameter_stays_tied() -> None:
    model = net(0)
    model.head.weight = model.tail.weight = nn.Parameter(model.head.weight[:6, :6].detach())
    again = restructure(net(2), structure_of(model, net(1), REGISTRY).dump(), REGISTRY, "here")
    assert again.tail.weight is again.head.weight  # type: ignore[union-attr]
    assert again.head.weight.shape == (6, 6)  # type: ignore[union-attr]


def test_what_cannot_be_described_is_refused_by_name() -> None:
    model = net(0)
    replace(model, "conv", nn.Conv1d(3, 8, 3))
    with pytest.raises(PluginError, match="module 'conv' is a Conv1d, which isn't in register_layers"):
        structure_of(model, net(1), REGISTRY)
    model = net(0)
    model.scale = object()  # type: ignore[assignment]
    with pytest.raises(PluginError, match="attribute 'scale' of module '' is a object"):
        structure_of(model, net(1), REGISTRY)
    model = net(0)
    model.tail.weight = nn.Parameter(model.tail.weight.detach().clone())
    with pytest.raises(PluginError, match="shared in another way"):
        structure_of(model, net(1), REGISTRY)
    model = net(0)
    model.blocks.append(nn.ReLU())
    with pytest.raises(PluginError, match=r"module 'blocks\.3' isn't one that the builder makes"):
        structure_of(model, net(1), REGISTRY)


def test_a_description_that_does_not_fit() -> None:
    with pytest.raises(PluginError, match="layer 'gone' isn't offered"):
        restructure(net(0), {"layers": {"head": {"key": "gone"}}}, REGISTRY, "here")
    wrong: dict[str, Any]
    for wrong in ({"shapes": {"nose.weight": [1]}}, {"noses": {}}, {"children": {"nose": []}}):
        with pytest.raises(ArtifactError, match="here: the structure doesn't fit the net"):
            restructure(net(0), wrong, REGISTRY, "here")
    with pytest.raises(ArtifactError, match="layer 'test-doubled'"):
        restructure(net(0), {"layers": {"head": {"key": "test-doubled", "config": {"sise": 1}}}}, REGISTRY, "here")
