from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.core.helpers import Inputs, Sign
from torch import Tensor, nn

from condensery import Transform, UsageError
from condensery.measure import DTYPES, dense_bytes, dense_tensors, peak_memory, without_transforms
from condensery.nets import attach, attached


def quantized() -> nn.Module:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3))
    attach(net, "0.weight", "sign", Sign())
    attach(net, "4:input", "sign", Sign())
    return net.eval()


def test_weights_without_transforms_are_what_the_layers_used() -> None:
    net, x = quantized(), torch.randn(2, 1, 4, 4)
    bare = without_transforms(net, activations=True)
    assert [a.target for a in attached(bare)] == ["4:input"]
    assert torch.equal(bare(x), net(x))
    assert set(bare.get_parameter("0.weight").unique().tolist()) <= {-0.5, 0.0, 0.5}  # type: ignore[no-untyped-call]
    assert attached(without_transforms(net)) == []
    assert len(attached(net)) == 2


def test_dense_bytes_are_those_of_a_saved_file(tmp_path: Path) -> None:
    net = quantized()
    tensors = dense_tensors(net)
    norm = {f"1.{name}" for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")}
    assert set(tensors) == {"0.weight", "0.bias", "4.weight", "4.bias"} | norm
    save_file(tensors, tmp_path / "dense.safetensors")
    assert dense_bytes(net) == (tmp_path / "dense.safetensors").stat().st_size
    assert torch.equal(load_file(tmp_path / "dense.safetensors")["0.weight"].abs(), torch.full((2, 1, 3, 3), 0.5))


def test_dense_bytes_of_all_element_types_and_names(tmp_path: Path) -> None:
    """The order of types decides the offsets, and so how many digits the header has."""
    net = nn.Module()
    for number, dtype in enumerate(DTYPES):
        for size in (0, 1, 1000):
            net.register_buffer(f"b{number}_é_{size}", torch.zeros(size, 2, dtype=dtype))
    save_file(dense_tensors(net), tmp_path / "all.safetensors")
    assert dense_bytes(net) == (tmp_path / "all.safetensors").stat().st_size


def test_shared_tensors_and_buffers_that_are_not_saved_count_as_saved() -> None:
    net = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    whole = dense_bytes(net)
    net[1].weight = net[0].weight
    tied = dense_bytes(net)
    assert whole - tied >= 64
    net.register_buffer("table", torch.zeros(100), persistent=False)
    assert dense_bytes(net) == tied


def test_an_element_type_that_cannot_be_stored_is_refused() -> None:
    net = nn.Module()
    net.register_buffer("spectrum", torch.zeros(2, dtype=torch.complex128))
    with pytest.raises(UsageError, match="'spectrum': safetensors has no element type"):
        dense_bytes(net)


def test_peak_memory_of_two_layers_by_hand() -> None:
    """float32: input 8, hidden 16 before and 16 after the ReLU, all alive at once; the output comes later."""
    net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    assert peak_memory(Inputs(lambda n: torch.zeros(n, 8)), net) == 4 * (8 + 16 + 16)


def test_peak_memory_ignores_weights_views_and_fake_quantizers() -> None:
    net = nn.Sequential(nn.Linear(8, 16), nn.Unflatten(1, (4, 4)), nn.Flatten(), nn.Linear(16, 4))
    attach(net, "0.weight", "sign", Sign())
    attach(net, "3:input", "sign", Sign())
    assert peak_memory(Inputs(lambda n: torch.zeros(n, 8)), net) == 4 * (8 + 16 + 4)


def test_peak_memory_falls_when_tensors_are_dropped() -> None:
    class Steps(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            wide = x.repeat(1, 100)
            narrow = wide[:, :8] + 1
            del wide
            return narrow.repeat(1, 90)

    assert peak_memory(Inputs(lambda n: torch.zeros(n, 8)), Steps()) == 4 * (8 + 800 + 8)


class First(Transform):
    """Lets through the first two channels only."""

    reshapes = True

    def forward(self, value: Tensor) -> Tensor:
        return value[..., :2, :, :]


def test_a_transform_without_which_the_net_does_not_run_stays_while_memory_is_counted() -> None:
    """By hand, 4-byte floats: input 16, first convolution 3 * 16, the sum of the first two channels 16 more."""
    net = nn.Sequential(nn.Conv2d(1, 3, 1), nn.Conv2d(2, 1, 1))
    attach(net, "1:input", "first", First())
    assert peak_memory(Inputs(lambda n: torch.zeros(n, 1, 4, 4)), net) == 4 * (16 + 48 + 16)
