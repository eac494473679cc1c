from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.core.helpers import recipe
from tests.plugins.pruning.stages import stage_of
from torch import Tensor, nn

from condensery import NotApplicable, Registry, Run
from condensery.nets import BATCH_NORMS, attach, attached
from condensery.run import Observer, Stage
from condensery_plugins.models import vgg
from condensery_plugins.pruning.masks import Mask
from condensery_plugins.pruning.network_slimming import NetworkSlimming
from condensery_plugins.tasks.digits import Digits


class Looks(Observer):
    """Keeps what the student's scales are after training, and scales and shifts when the stage ends."""

    def epoch_ended(self, stage: Stage, history: Sequence[Mapping[str, Any]]) -> None:
        self.trained = {w.path: w.value.clone() for w in stage.weights(kinds=BATCH_NORMS)}

    def stage_ended(self, stage: Stage) -> None:
        self.scales = {w.path: w.value.clone() for w in stage.weights(kinds=BATCH_NORMS)}
        self.shifts = {w.path: w.value.clone() for w in stage.weights(kinds=BATCH_NORMS, tensor="bias")}


def run(tmp_path: Path, **settings: Any) -> tuple[dict[str, Any], Looks]:
    """Return the report of a run, and what was seen of it."""
    train = {"batch_size": 32, "epochs": 1, "optimizer": {"lr": 0.1}}
    given = recipe([{"methods": [{"network-slimming": settings}]}], train=train)
    looks = Looks()
    out = tmp_path / "-".join(map(str, settings.values()))
    return Run(given, Registry.open(), out=out, observer=looks).execute(), looks


def prepared(net: nn.Module, **settings: Any) -> tuple[Stage, NetworkSlimming]:
    """Let the method start a stage on a net as it is."""
    stage, method = stage_of(net, Digits()), NetworkSlimming(**settings)
    method.prepare(stage)
    return stage, method


def end_stage(net: nn.Module, **settings: Any) -> dict[str, float]:
    """Let the method end a stage on a net as it is; return its report."""
    stage, method = prepared(net, **settings)
    method.end_stage(stage)
    return method.report(stage)


def small_vgg() -> nn.Module:
    net = vgg.build(Digits().facts, "vgg16-bn", width=0.07, hidden=100)  # 4, 9, 18, 36 and 36 channels, 7 hidden
    drawn = torch.Generator().manual_seed(0)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(module.get_parameter("weight"), 0.1, 1.0, generator=drawn)
            nn.init.normal_(module.get_parameter("bias"), 0.0, 0.1, generator=drawn)
    return net.eval()


def test_the_penalty_pulls_each_scale_by_rate_times_factor(tmp_path: Path) -> None:
    """One SGD step from scale 1 at rate 0.1: with factor 0.5 each scale is 0.05 below that without."""
    (_, with_penalty), (_, without) = run(tmp_path, sparsity=0.5), run(tmp_path, sparsity=0.0)
    for path, scale in without.trained.items():
        torch.testing.assert_close(scale - with_penalty.trained[path], torch.full_like(scale, 0.05), atol=1e-6, rtol=0)


def test_a_global_share_of_channels_goes(tmp_path: Path) -> None:
    """resnet8 at half width has 8 + 2 * (8 + 16 + 32) = 120 channels behind batch normalization: 30 % is 36.

    The first norm of a block loses its channels; those on the residual stream are only held at zero.
    """
    report, looks = run(tmp_path, sparsity=0.01, ratio=0.3)
    full = {"bn1": 8, **{f"layer{n}.0.bn{m}": 8 * 2 ** (n - 1) for n in (1, 2, 3) for m in (1, 2)}}
    cut = {p: n - len(looks.scales[p]) for p, n in full.items()}
    off = {p: int((s == 0).sum()) for p, s in looks.scales.items()}
    assert sum(cut.values()) + sum(off.values()) == 36
    assert {p for p, n in cut.items() if n} <= {f"layer{n}.0.bn1" for n in (1, 2, 3)}
    assert sum(cut.values()) > 0
    assert sum(off.values()) > 0
    assert all(off[f"layer{n}.0.bn1"] == 0 for n in (1, 2, 3))
    for path, scale in looks.scales.items():
        assert bool((looks.shifts[path][scale == 0] == 0).all())
    said = report["stages"][-1]["report"]
    assert said["network-slimming.channels_cut_percent"] == pytest.approx(100 * sum(cut.values()) / 120)
    assert said["network-slimming.channels_off_percent"] == pytest.approx(100 * sum(off.values()) / 120)
    removed = report["before"]["parameters"] - report["after"]["parameters"]
    readers = {1: (8, 8), 2: (8, 16), 3: (16, 32)}
    assert removed == sum(cut[f"layer{n}.0.bn1"] * (9 * i + 2 + 9 * o) for n, (i, o) in readers.items())


def test_no_layer_is_emptied(tmp_path: Path) -> None:
    _, looks = run(tmp_path, sparsity=0.01, ratio=0.95)
    assert all(bool((s != 0).any()) for s in looks.scales.values())


def test_a_plain_net_loses_its_channels_and_computes_as_if_they_were_off() -> None:
    net = small_vgg()
    norms = {n: m for n, m in net.named_modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)}
    scales = {n: m.get_parameter("weight").detach().clone() for n, m in norms.items()}
    masked = small_vgg()
    masked.load_state_dict(net.state_dict())
    limit = torch.cat(list(scales.values())).sort().values
    total = len(limit)
    gone = {n: s < limit[round(0.3 * total)] for n, s in scales.items()}
    assert all(not bool(g.all()) for g in gone.values())
    for name, off in gone.items():
        for tensor in ("weight", "bias"):
            masked.get_parameter(f"{name}.{tensor}").data[off] = 0.0
    report = end_stage(net, ratio=0.3)
    assert report["channels_cut_percent"] == pytest.approx(100 * round(0.3 * total) / total)
    assert report["channels_off_percent"] == 0.0
    assert report["mean_scale"] == pytest.approx(float(torch.cat(list(scales.values())).mean()))
    for name, off in gone.items():
        assert torch.equal(net.get_parameter(f"{name}.weight"), scales[name][~off])
    x = torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(net(x), masked(x))


def test_norms_that_another_method_of_the_stage_takes_away_are_left_out(tmp_path: Path) -> None:
    """Blocks go with their norms, and the channels of the others are cut; where all norms are folded, none are left."""
    beside = recipe([{"methods": ["network-slimming", "residual-block-pruning"]}])
    report = Run(beside, Registry.open(), out=tmp_path / "blocks", device="cpu").execute()
    assert report["stages"][-1]["report"]["residual-block-pruning.blocks_removed_count"] > 0
    assert report["stages"][-1]["report"]["network-slimming.channels_cut_percent"] > 0

    folded = recipe([{"methods": ["network-slimming", "jacob-integer-only"]}])
    with pytest.raises(NotApplicable, match="another method of its stage takes all batch normalizations away"):
        Run(folded, Registry.open(), out=tmp_path / "folded", device="cpu").check()


class PreActivation(nn.Module):
    """A stem, two blocks whose first norm reads the residual stream, and a last norm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 6, 3, padding=1)
        self.a1, self.ca1 = nn.BatchNorm2d(6), nn.Conv2d(6, 4, 1)
        self.a2, self.ca2 = nn.BatchNorm2d(4), nn.Conv2d(4, 6, 1)
        self.b1, self.cb1 = nn.BatchNorm2d(6), nn.Conv2d(6, 4, 1)
        self.b2, self.cb2 = nn.BatchNorm2d(4), nn.Conv2d(4, 6, 1)
        self.last, self.head = nn.BatchNorm2d(6), nn.Linear(6, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.ca2(torch.relu(self.a2(self.ca1(torch.relu(self.a1(x))))))
        x = x + self.cb2(torch.relu(self.b2(self.cb1(torch.relu(self.b1(x))))))
        return self.head(torch.relu(self.last(x)).mean((2, 3)))  # type: ignore[no-any-return]


def test_pre_activation_nets_get_channel_selections() -> None:
    """By hand: of 26 scales the 9 below 0.5 go: 2 of a1, 1 of a2, 3 of b1, 2 of b2, 1 of the last norm."""
    net = PreActivation().eval()
    low = {"a1": [0, 3], "a2": [2], "b1": [1, 2, 5], "b2": [0, 1], "last": [4]}
    for name, channels in low.items():
        scale = net.get_parameter(f"{name}.weight").data
        scale[channels] = torch.linspace(0.1, 0.2, len(channels))
        net.get_parameter(f"{name}.bias").data.normal_()
    masked = PreActivation().eval()
    masked.load_state_dict(net.state_dict())
    for name, channels in low.items():
        for tensor in ("weight", "bias"):
            masked.get_parameter(f"{name}.{tensor}").data[channels] = 0.0
    report = end_stage(net, ratio=9 / 26)
    assert report["channels_cut_percent"] == pytest.approx(100 * 3 / 26)
    assert report["channels_off_percent"] == pytest.approx(100 * 6 / 26)
    assert report["narrowed_layers_count"] == 2
    selections = {a.target: a.transform.get_buffer("index").tolist() for a in attached(net) if a.name != "mask"}
    assert selections == {"ca1:input": [1, 2, 4, 5], "cb1:input": [0, 3, 4]}
    assert net.get_parameter("ca1.weight").shape == (3, 4, 1, 1)
    assert net.get_parameter("cb1.weight").shape == (2, 3, 1, 1)
    assert net.a1.num_features == net.last.num_features == 6
    x = torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(net(x), masked(x))


class ReadAgain(nn.Module):
    """A convolution reads a norm, and then its own outputs, or those are read by another one with its weight."""

    def __init__(self, tied: bool) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.conv = nn.Conv2d(6, 6, 3, padding=1)
        self.again = nn.Conv2d(6, 6, 3, padding=1) if tied else self.conv
        self.again.weight = self.conv.weight
        self.head = nn.Linear(6, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(torch.relu(self.norm(self.stem(x))))
        return self.head(torch.relu(self.again(torch.relu(x))).mean((2, 3)))  # type: ignore[no-any-return]


@pytest.mark.parametrize("tied", [False, True])
def test_a_layer_that_reads_something_else_too_keeps_its_inputs(tied: bool) -> None:
    """Of six channels two go; they are held at zero, since what reads them reads six others as well."""
    net = ReadAgain(tied).eval()
    net.norm.get_parameter("weight").data[[1, 4]] = 0.1
    net.norm.get_parameter("bias").data.normal_()
    masked = ReadAgain(tied).eval()
    masked.load_state_dict(net.state_dict())
    for tensor in ("weight", "bias"):
        masked.norm.get_parameter(tensor).data[[1, 4]] = 0.0

    report = end_stage(net, ratio=2 / 6)
    assert report["channels_off_percent"] == pytest.approx(100 * 2 / 6)
    assert report["narrowed_layers_count"] == report["channels_cut_percent"] == 0
    assert net.get_parameter("conv.weight").shape == (6, 6, 3, 3)
    x = torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(net(x), masked(x))


def test_each_pass_takes_half_of_what_the_one_before_left() -> None:
    """Norms of 6, 4, 6, 4 and 6 channels: 3, 2, 3, 2, 3 go; then of 3, 2, 3, 2, 3 one each.

    Half of 3 is rounded to 2, and capped at 1. Those of a2 and b2 are cut, the others held at zero.
    """
    net = PreActivation().eval()
    settings = {"ratio": 0.5, "max_share": 0.5, "scope": "local"}
    first, second = end_stage(net, **settings), end_stage(net, **settings)
    assert (first["channels_cut_percent"], first["channels_off_percent"]) == pytest.approx((400 / 26, 900 / 26))
    assert (second["channels_cut_percent"], second["channels_off_percent"]) == pytest.approx((200 / 13, 300 / 13))
    left = {n: int((m.weight != 0).sum()) for n, m in net.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert left == {"a1": 2, "a2": 1, "b1": 2, "b2": 1, "last": 2}


def test_a_scale_that_a_mask_holds_isnt_there_however_large() -> None:
    """Of 26 scales one of 9 is held at zero: of 25, whose mean is 1, four go."""
    net = PreActivation().eval()
    scale = net.get_parameter("a1.weight").data
    scale[:] = torch.tensor([9.0, 1.2, 1.0, 0.8, 1.0, 1.0])
    net.get_parameter("last.weight").data[1:5] = torch.tensor([0.7, 0.8, 0.9, 1.6])
    held = Mask((6,))
    held.keep[0] = False
    attach(net, "a1.weight", "mask", held)
    report = end_stage(net, ratio=0.16)
    assert report["mean_scale"] == pytest.approx(1.0)
    assert report["channels_off_percent"] == 16.0
    assert (net.a1.weight != 0).tolist() == [False, True, True, False, True, True]
    assert (net.last.weight != 0).tolist() == [True, False, False, False, True, True]


def test_norms_are_kept_in_the_nets_order() -> None:
    """A set's order depends on the process, and with it the last digits of a mean."""
    net = PreActivation()
    assert prepared(net)[1].norms_ == ["a1", "a2", "b1", "b2", "last"]


def test_coupled_channels_can_be_left_alone(tmp_path: Path) -> None:
    """Half of each block's own channels goes; norms on the residual stream are neither penalized nor ranked."""
    settings = {"ratio": 0.5, "scope": "local", "coupled": "leave"}
    (report, slim), (_, free) = (run(tmp_path, sparsity=sparsity, **settings) for sparsity in (0.5, 0.0))
    assert {n: len(slim.scales[f"layer{n}.0.bn1"]) for n in (1, 2, 3)} == {1: 4, 2: 8, 3: 16}
    assert report["stages"][-1]["report"]["network-slimming.channels_cut_percent"] == 50.0
    for path in ("bn1", "layer1.0.bn2", "layer2.0.bn2", "layer3.0.bn2"):
        assert torch.equal(slim.scales[path], free.scales[path])
        assert bool((slim.scales[path] != 0).all())
