from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.plugins.pruning.stages import draw, stage_of
from torch import Tensor, nn

from condensery.contract import Registry
from condensery.measure import count_work
from condensery.nets import attach, attached, replace
from condensery.storage import bake
from condensery_plugins.models import lenet
from condensery_plugins.pruning.masks import Mask, mask
from condensery_plugins.pruning.thinned import ThinnedConv2d, ThinningMask, thin
from condensery_plugins.pruning.weight_groups import grouped
from condensery_plugins.tasks.digits import Digits

REGISTRY = Registry.open()
CASES: list[dict[str, Any]] = [
    {},
    {"stride": 2, "padding": 1},
    {"dilation": (2, 1), "padding": (2, 0), "bias": False},
    {"padding": "same"},
    {"padding": 1, "padding_mode": "reflect"},
    {"groups": 2, "stride": (1, 2)},
    {"kernel_size": (1, 1)},
]


def mask_on(
    net: nn.Module, target: str, keep: Callable[[Tensor], Tensor], cls: type[Mask] = ThinningMask
) -> ThinningMask | Mask:
    """Put a mask on a convolution; ``keep`` changes its columns ``(convolution groups, filters, columns)``."""
    path, _, _ = target.rpartition(".")
    module = net.get_submodule(path)
    made = cls(module.get_parameter("weight").shape)
    view = grouped(module, made.keep).flatten(2)
    made.keep.copy_(keep(view.clone()).view(made.keep.shape))
    attach(net, target, "mask", made)
    return made


def every_third(keep: Tensor) -> Tensor:
    """Keep every third column, shifted by one in each convolution group."""
    index = torch.arange(keep.shape[2])
    for number, part in enumerate(keep):
        part &= (index + number) % 3 == 0
    return keep


def without_filters(keep: Tensor) -> Tensor:
    keep = every_third(keep)
    keep[:, 1] = False
    return keep


@pytest.mark.parametrize("what", [every_third, without_filters])
@pytest.mark.parametrize("settings", CASES)
def test_it_computes_what_the_masked_convolution_does(
    settings: dict[str, Any], what: Callable[[Tensor], Tensor]
) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(4, 6, **{"kernel_size": 3, **settings}))
    x = torch.randn(3, 4, 9, 8)
    mask_on(net, "0.weight", what)
    with torch.no_grad():
        expected = net(x)
        baked = bake(net, REGISTRY).net
        assert type(baked[0]) is ThinnedConv2d  # type: ignore[index]
        found = baked(x)
    assert (found - expected).abs().max() < 1e-5
    kept = [list(pair) for pair in zip(*_sizes(net), strict=True)]
    assert baked[0].kept == kept  # type: ignore[index]
    assert baked[0].weight.numel() == sum(r * c for r, c in kept)  # type: ignore[index]


def _sizes(net: nn.Module) -> tuple[list[int], list[int]]:
    alive = grouped(net.get_submodule("0"), attached(net)[0].transform.get_buffer("keep")).flatten(2)
    return alive.any(2).sum(1).tolist(), alive.any(1).sum(1).tolist()


def test_gradients_equal_the_masked_convolutions() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1))
    mask_on(net, "0.weight", every_third)
    thinned = bake(net, REGISTRY).net
    x = torch.randn(2, 2, 5, 5, requires_grad=True)
    (expected,) = torch.autograd.grad(net(x).square().sum(), x)
    (found,) = torch.autograd.grad(thinned(x).square().sum(), x)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_a_layer_without_weights_gives_its_bias() -> None:
    net = nn.Sequential(nn.Conv2d(2, 3, 3, stride=2))
    mask_on(net, "0.weight", torch.zeros_like)
    layer = bake(net, REGISTRY).net[0]  # type: ignore[index]
    bias = net.get_parameter("0.bias").view(1, 3, 1, 1).expand(2, 3, 3, 4)
    assert layer.weight.numel() == 0
    assert torch.equal(layer(torch.randn(2, 2, 7, 9)), bias)


def half(keep: Tensor) -> Tensor:
    keep[:, :, ::2] = False
    return keep


def one_more(keep: Tensor) -> Tensor:
    keep = half(keep)
    keep[0, 0, 1] = False
    return keep


def rows_only(keep: Tensor) -> Tensor:
    keep[:, 0] = False
    return keep


@pytest.mark.parametrize("what", [one_more, rows_only, torch.ones_like])
def test_a_mask_of_another_form_stays_a_mask(what: Callable[[Tensor], Tensor]) -> None:
    net = nn.Sequential(nn.Conv2d(2, 3, 3))
    mask_on(net, "0.weight", what)
    baked = bake(net, REGISTRY)
    assert type(baked.net[0]) is nn.Conv2d  # type: ignore[index]
    torch.testing.assert_close(baked.net[0].get_parameter("weight"), net[0].weight)  # type: ignore[index]


def test_a_plain_mask_and_one_beside_another_transform_stay() -> None:
    plain, beside = nn.Sequential(nn.Conv2d(2, 3, 3)), nn.Sequential(nn.Conv2d(2, 3, 3))
    mask_on(plain, "0.weight", half, Mask)
    mask_on(beside, "0.weight", half)
    attach(beside, "0.weight", "second", Mask((3, 2, 3, 3)))
    for net in (plain, beside):
        assert type(bake(net, REGISTRY).net[0]) is nn.Conv2d  # type: ignore[index]


@pytest.mark.parametrize(("bits", "thins"), [(None, True), (4, False)])
def test_thinning_takes_a_plain_masks_place_with_what_it_holds(bits: int | None, thins: bool) -> None:
    """Filter 1 was held, then every other column is: what is left is 2 filters by 9 columns. Set indices stay."""
    net = nn.Sequential(nn.Conv2d(2, 3, 3))
    stage = stage_of(net, Digits())
    (weight,) = stage.weights()
    keep = torch.ones(3, 2, 3, 3, dtype=torch.bool)
    keep[1] = False
    mask(stage, weight, keep, index_bits=bits)
    columns = (torch.arange(18) % 2 == 1).view(1, 2, 3, 3).expand(3, 2, 3, 3)
    thin(stage, weight, columns)
    assert torch.equal(weight.alive, keep & columns)
    (only,) = attached(net)
    assert only.transform.config().get("index_bits") == bits
    layer = bake(net, REGISTRY).net[0]  # type: ignore[index]
    assert isinstance(layer, ThinnedConv2d) == thins
    assert int((layer.weight != 0).sum()) == 18


def lenet5() -> nn.Module:
    torch.manual_seed(0)
    return lenet.build(Digits(size=28).facts, "lenet-5")


def keep_first(count: int) -> Callable[[Tensor], Tensor]:
    def keep(there: Tensor) -> Tensor:
        there[:, :, count:] = False
        return there

    return keep


def test_work_and_parameters_by_hand() -> None:
    """Of conv1 7 of 25 columns stay, of conv2 14 of 500: 20 * 7 * 576 and 50 * 14 * 64 products.

    Dense they are 288,000 and 1,600,000; the linear layers have 800 * 500 and 500 * 10.
    """
    task, net = Digits(size=28), lenet5()
    assert {w.path: w.macs for w in count_work(task, net).layers} == {
        "conv1": 288_000,
        "conv2": 1_600_000,
        "ip1": 400_000,
        "ip2": 5_000,
    }
    mask_on(net, "conv1.weight", keep_first(7))
    mask_on(net, "conv2.weight", keep_first(14))
    thinned = bake(net, REGISTRY).net
    work = {w.path: w for w in count_work(task, thinned).layers}
    assert work["conv1"].macs == work["conv1"].effective_macs == 20 * 7 * 576 == 80_640
    assert work["conv2"].macs == work["conv2"].effective_macs == 50 * 14 * 64 == 44_800
    assert sum(p.numel() for p in thinned.parameters()) == 431_080 - 20 * 18 - 50 * 486


def test_it_is_exported() -> None:
    net = lenet5()
    mask_on(net, "conv1.weight", without_filters)
    mask_on(net, "conv2.weight", torch.zeros_like)
    thinned = bake(net, REGISTRY).net.eval()
    x = torch.randn(2, 1, 28, 28)
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(thinned, (x,), dynamic_shapes=({0: batch},))
    more = torch.randn(5, 1, 28, 28)
    with torch.no_grad():
        torch.testing.assert_close(program.module()(more), thinned(more))


def test_its_config_builds_it_again() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(4, 6, 3, groups=2, padding=1))
    mask_on(net, "0.weight", without_filters)
    thinned = bake(net, REGISTRY).net
    layer = thinned[0]  # type: ignore[index]
    again = ThinnedConv2d(**layer.config())
    again.load_state_dict(layer.state_dict())
    x = draw(2, 4, 6, 6).float()
    expected = thinned(x)
    replace(thinned, "0", again)
    assert torch.equal(thinned(x), expected)
