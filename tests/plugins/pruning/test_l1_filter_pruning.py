from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.plugins.pruning.nets import Mobile
from tests.plugins.pruning.stages import stage_of
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from condensery import NotApplicable, Registry, Run, UsageError
from condensery.nets import attach
from condensery.recipe import parse_recipe
from condensery.tasks import TaskFacts
from condensery_plugins.models import resnet, vgg
from condensery_plugins.pruning.l1_filter_pruning import PLANS, L1FilterPruning, norms
from condensery_plugins.pruning.masks import Mask
from condensery_plugins.tasks.digits import Digits

CIFAR = TaskFacts("image", outputs=10, channels=3, size=32)


class Cifar(Digits):
    """The digits task with CIFAR's shape: nothing is trained, only shapes count."""

    def __init__(self) -> None:
        super().__init__()
        self.facts = CIFAR


def prune(net: nn.Module, task: Digits | None = None, **settings: Any) -> dict[str, float]:
    stage, method = stage_of(net, task or Cifar()), L1FilterPruning(**settings)
    method.prepare(stage)
    return method.report(stage)


def counts(net: nn.Module) -> tuple[int, int]:
    """Return weights and multiply-accumulates: of the convolutions, and of the linear layers where there are two."""
    linear = [m for m in net.modules() if isinstance(m, nn.Linear)]
    layers = [m for m in net.modules() if isinstance(m, nn.Conv2d)] + (linear if len(linear) > 1 else [])
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net.eval()(torch.zeros(1, 3, 32, 32))
    macs = counter.get_total_flops() // 2
    last = linear[-1].in_features * linear[-1].out_features
    return sum(m.get_parameter("weight").numel() for m in layers), macs - (0 if len(linear) > 1 else last)


@pytest.mark.parametrize(
    ("plan", "before", "after"),
    [
        pytest.param("resnet56-a", (848_304, 125_485_056), (768_816, 112_435_200), marks=pytest.mark.slow),
        ("resnet56-b", (848_304, 125_485_056), (731_376, 90_906_624)),
        pytest.param("resnet110-a", (1_719_216, 252_887_040), (1_680_048, 212_779_008), marks=pytest.mark.slow),
        pytest.param("resnet110-b", (1_719_216, 252_887_040), (1_161_072, 155_123_712), marks=pytest.mark.slow),
        pytest.param("vgg16-a", (14_977_728, 313_463_808), (5_390_176, 206_279_680), marks=pytest.mark.slow),
    ],
)
def test_the_papers_counts(plan: str, before: tuple[int, int], after: tuple[int, int]) -> None:
    key = plan.partition("-")[0]
    net = vgg.build(CIFAR, "vgg16-bn", hidden=512) if key == "vgg16" else resnet.build(CIFAR, key)
    assert counts(net) == before
    prune(net, plan=plan)
    assert counts(net) == after


def test_plans_number_the_first_convolutions_of_the_blocks() -> None:
    """ResNet-56: layer 1 is the stem; 2, 4 ... 18 are the first stage's, 20 ... 36 and 38 ... 54 the others'."""
    rates = PLANS["resnet56-b"].rates
    assert sorted(n for n, r in rates.items() if r == 0.6) == [2, 4, 6, 8, 10, 12, 14]
    assert sorted(n for n, r in rates.items() if r == 0.3) == [22, 24, 26, 28, 30, 32, 36]
    assert sorted(n for n, r in rates.items() if r == 0.1) == [40, 42, 44, 46, 48, 50, 52]


def test_scores_worked_out_by_hand() -> None:
    filters = torch.tensor([[[1.0, -2.0], [3.0, 0.0]], [[-1.0, -1.0], [-1.0, 5.0]]])
    assert norms(filters, []).tolist() == [6.0, 8.0]
    assert norms(filters, [1]).tolist() == [3.0, 2.0]


class Two(nn.Module):
    """Two 1x1 convolutions; the second's filters are (1, 9), (4, 4), (5, 0)."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(1, 2, 1), nn.Conv2d(2, 3, 1), nn.Linear(3, 10)
        self.a.get_parameter("weight").data = torch.tensor([2.0, 1.0]).view(2, 1, 1, 1)
        self.b.get_parameter("weight").data = torch.tensor([[1.0, 9.0], [4.0, 4.0], [5.0, 0.0]]).view(3, 2, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.b(torch.relu(self.a(x)))).mean((2, 3)))  # type: ignore[no-any-return]


@pytest.mark.parametrize(("variant", "left"), [("independent", [1.0, 4.0]), ("greedy", [4.0, 5.0])])
def test_greedy_scores_leave_out_maps_that_are_gone(variant: str, left: list[float]) -> None:
    """Filter 1 of a goes. Whole filters of b count 10, 8, 5: the third goes; without its maps 1, 4, 5: the first."""
    net = Two()
    report = prune(net, Digits(), rates={"b": 0.3, "a": 0.5}, variant=variant)
    assert net.get_parameter("a.weight").flatten().tolist() == [2.0]
    assert net.get_parameter("b.weight").flatten().tolist() == left
    assert report == {"filters_removed_count": 2, "filters_removed_percent": 40.0}


def test_a_filter_that_a_mask_holds_is_the_smallest() -> None:
    """Of filters of norm 2 and 1 the first is held at zero: it goes."""
    net = Two()
    held = Mask((2, 1, 1, 1))
    held.keep[0] = False
    attach(net, "a.weight", "mask", held)
    prune(net, Digits(), rates={"a": 0.5})
    assert net.get_submodule("a").weight.flatten().tolist() == [1.0]  # type: ignore[operator]


def test_uniform_prunes_what_no_shortcut_couples() -> None:
    net = resnet.build(Digits().facts, "resnet8")
    prune(net, Digits(), ratio=0.25)
    widths = {n: m.out_channels for n, m in net.named_modules() if isinstance(m, nn.Conv2d)}
    assert [widths[f"layer{n}.0.conv1"] for n in (1, 2, 3)] == [12, 24, 48]
    assert [widths[n] for n in ("conv1", "layer1.0.conv2", "layer3.0.conv2")] == [16, 16, 64]


@pytest.mark.parametrize(
    ("rate", "left"), [(0.1, [54, 108, 216]), (0.6, [24, 48, 96]), (0.9, [6, 12, 24]), (0.99, [1, 1, 2])]
)
def test_filters_that_stay_are_floored_in_decimals(rate: float, left: list[int]) -> None:
    """Of 60, 120 and 240 filters; ``int(60 * (1 - 0.9))`` is 5 in binary floats."""
    net = resnet.build(Digits().facts, "resnet8", width=3.75)
    prune(net, Digits(), ratio=rate)
    assert [net.get_parameter(f"layer{n}.0.conv1.weight").shape[0] for n in (1, 2, 3)] == left


@pytest.mark.parametrize(
    ("rates", "widths"),
    [
        ({"layer2.0.conv1": 0.25}, [16, 24, 64]),
        ({"*.conv1": 0.5}, [8, 16, 32]),
        ({"*.conv1": 0.5, "layer3.0.conv1": 0.25}, [8, 16, 48]),
    ],
)
def test_rates_by_layer_or_pattern(rates: dict[str, float], widths: list[int]) -> None:
    """The stem, conv1, has no dot in front."""
    net = resnet.build(Digits().facts, "resnet8")
    prune(net, Digits(), rates=rates)
    assert [net.get_parameter(f"layer{n}.0.conv1.weight").shape[0] for n in (1, 2, 3)] == widths
    assert net.get_parameter("conv1.weight").shape[0] == 16


@pytest.mark.parametrize(
    ("settings", "error", "says"),
    [
        ({"plan": "vgg16-a"}, NotApplicable, "plan 'vgg16-a' numbers 13 convolutions, the net has 2"),
        ({"rates": {"c": 0.5}}, UsageError, "l1-filter-pruning.rates: unknown layer 'c'; known: .*, a, b, first"),
        ({"rates": {"last": 0.5}}, UsageError, "l1-filter-pruning.rates: none of the net's convolutions is last"),
    ],
)
def test_refusals(settings: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        prune(Two(), Digits(), **settings)


@pytest.mark.parametrize(
    ("path", "others"), [("conv", "downsample.0"), ("downsample.0", "conv"), ("depthwise", "conv, downsample.0")]
)
def test_a_layer_that_a_projection_shortcut_couples_is_refused(path: str, others: str) -> None:
    net = Mobile(1, 10)
    says = f"layer '{path}' can't lose filters by itself: its channels go with those of {others}$"
    with pytest.raises(UsageError, match=says):
        prune(net, Digits(), rates={path: 0.5})
    report = prune(net, Digits(), rates={path: 0.0})
    assert report == {"filters_removed_count": 0, "filters_removed_percent": 0.0}


def test_a_grouped_layer_is_refused() -> None:
    class Grouped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.head = nn.Conv2d(1, 4, 1), nn.Conv2d(4, 6, 1, groups=2), nn.Linear(6, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.b(self.a(x)).mean((2, 3)))  # type: ignore[no-any-return]

    with pytest.raises(
        UsageError, match="layer 'b' can't lose filters by itself: each of its 2 parts must lose as many"
    ):
        prune(Grouped(), Digits(), rates={"b": 0.5})


def test_a_coupled_layer_named_by_the_user_is_refused(tmp_path: Path) -> None:
    data = {
        "model": "resnet8",
        "task": "digits",
        "base": "none",
        "stages": [{"methods": [{"l1-filter-pruning": {"rates": {"conv1": 0.5}}}]}],
    }
    with pytest.raises(UsageError, match=r"layer 'conv1' can't be cut: its 16 channels and the 64 of"):
        Run(parse_recipe(data), Registry.open(), out=tmp_path / "run", device="cpu").execute()
