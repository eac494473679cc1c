from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.core.helpers import recipe
from tests.plugins.pruning.stages import Given, stage_of
from torch import Tensor, nn

from condensery import NotApplicable, Registry, Run, UnknownKey, UsageError
from condensery.contract import StageManager
from condensery.measure import count_work
from condensery.nets import attach, attached, latent_of
from condensery.run import Defaults, Observer, Stage
from condensery.storage import bake
from condensery_plugins.models import mlp
from condensery_plugins.pruning.masks import Mask
from condensery_plugins.pruning.ssl import StructuredSparsityLearning
from condensery_plugins.pruning.thinned import ThinnedConv2d
from condensery_plugins.tasks.digits import Digits

REGISTRY = Registry.open()


class Pair(nn.Module):
    """Two convolutions and a linear layer; weights as given."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 2, (1, 2), bias=False), nn.Conv2d(2, 2, (1, 2), bias=False)
        self.head = nn.Linear(2, 2)
        self.a.weight.data = torch.tensor([[[[3.0, 4.0]]], [[[0.0, 12.0]]]])
        self.b.weight.data = torch.tensor([[[[3.0, 0.0]], [[4.0, 0.0]]], [[[0.0, 12.0]], [[0.0, 0.0]]]])
        self.head.weight.data = torch.tensor([[3.0, 0.0], [4.0, 1.0]])

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.b(torch.relu(self.a(x)))).mean((2, 3)))  # type: ignore[no-any-return]


def pair() -> Stage:
    x = torch.randn(8, 1, 3, 4, generator=torch.Generator().manual_seed(0))
    return stage_of(Pair(), Given(x, torch.zeros(8, dtype=torch.int64)))


def method(stage: Stage, **settings: Any) -> StructuredSparsityLearning:
    made = StructuredSparsityLearning(**settings)
    made.prepare(stage)
    stage.manager = StageManager("m", [("ssl", made)], Defaults())
    return made


def without_reach(report: dict[str, float]) -> dict[str, float]:
    """Return a report without the share of the net that is reached, which every pruning method says."""
    assert 0 < report["reached_percent"] <= 100
    return {name: value for name, value in report.items() if name != "reached_percent"}


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("filter", 5 + 12 + 5 + 12),  # of a and b; the last layer's rows are classes
        ("channel", 13 + math.sqrt(153) + 4 + 5 + 1),
        ("shape", 3 + math.sqrt(16 + 144) + 3 + 12 + 4 + 0),  # of the convolutions
    ],
)
def test_penalties_by_hand(kind: str, expected: float) -> None:
    stage = pair()
    (term,) = method(stage, granularity=[kind], strength=0.5).loss_terms(stage, stage.student).values()
    assert term.item() == pytest.approx(0.5 * expected, rel=1e-6)


def test_each_kind_has_its_strength_and_each_layer_its_factor() -> None:
    """Filters: 0.5 * (3 * 17 + 17); channels: 0.1 * (3 * 13 + sqrt(153) + 4 + 6)."""
    stage = pair()
    made = method(stage, strength=0.1, strengths={"filter": 0.5}, factors={"a": 3.0})
    terms = {k: v.item() for k, v in made.loss_terms(stage, stage.student).items()}
    assert terms == pytest.approx({"filter": 0.5 * 68, "channel": 0.1 * (49 + math.sqrt(153))}, rel=1e-6)


def test_the_gradient_is_the_strength_times_the_unit_vector() -> None:
    """Of the filter (3, 4) with norm 5 at strength 0.5: (0.3, 0.4)."""
    stage = pair()
    made = method(stage, granularity=["filter"], strength=0.5)
    made.loss_terms(stage, stage.student)["filter"].backward()  # type: ignore[no-untyped-call]
    grad = latent_of(stage.student.module.get_submodule("a"), "weight").grad
    assert grad is not None
    torch.testing.assert_close(grad[0].flatten(), torch.tensor([0.3, 0.4]))


def hold(net: nn.Module, path: str, held: Tensor) -> None:
    """Hold some of a layer's weights at zero."""
    mask = Mask(held.shape)
    mask.keep.copy_(~held)
    attach(net, f"{path}.weight", "mask", mask)


def test_held_weights_are_in_no_penalty_and_get_no_gradient() -> None:
    """Of the filter (3, 4) the 4 is held at zero: the norm is 3, and 5 and 12 and 12 are as before."""
    stage = pair()
    net = stage.student.module
    hold(net, "a", torch.tensor([False, True, False, False]).view(2, 1, 1, 2))
    term = method(stage, granularity=["filter"], strength=0.5).loss_terms(stage, stage.student)["filter"]
    assert term.item() == pytest.approx(0.5 * (3 + 12 + 5 + 12))
    term.backward()  # type: ignore[no-untyped-call]
    grad = latent_of(net.get_submodule("a"), "weight").grad
    assert grad is not None
    assert grad.flatten().tolist() == [0.5, 0.0, 0.0, 0.5]


def test_what_is_nearly_zero_becomes_zero_after_each_step() -> None:
    stage = pair()
    latent = latent_of(stage.student.module.get_submodule("a"), "weight")
    latent.data = torch.tensor([0.01, -0.001, 0.0005, -0.2]).view_as(latent)
    method(stage, zero_below=0.002).after_step(stage, stage.student)
    assert latent.flatten().tolist() == pytest.approx([0.01, 0.0, 0.0, -0.2])
    assert (latent == 0).sum() == 2


def test_the_largest_weight_of_a_layer_that_has_to_stay_never_becomes_zero() -> None:
    """Of the two largest, -0.0012 and what a mask holds, the first stays; c may go as a whole, and does."""
    net = Chain()
    stage = stage_of(net, Digits())
    made = method(stage, granularity=["filter", "depth"], zero_below=0.002)
    held = torch.zeros(net.a.weight.shape, dtype=torch.bool)
    held[5] = True
    hold(net, "a", held)
    stage.changed()
    for path in ("a", "c"):
        latent = latent_of(net.get_submodule(path), "weight").data
        latent.fill_(0.0005)
        latent[2, 0, 1, 1] = -0.0012
    latent_of(net.a, "weight").data[5] = 0.0015
    made.after_step(stage, stage.student)
    assert net.a.weight[net.a.weight != 0].tolist() == [pytest.approx(-0.0012)]
    assert not net.c.weight.any()


class Chain(nn.Module):
    """Two convolutions behind each other, then a block with a shortcut; batch norm behind each convolution."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Conv2d(1, 6, 3, padding=1, bias=False), nn.Conv2d(6, 4, 3, padding=1, bias=False)
        self.c, self.d = (nn.Conv2d(4, 4, 3, padding=1, bias=False) for _ in range(2))
        self.na, self.nb, self.nc, self.nd = (nn.BatchNorm2d(n) for n in (6, 4, 4, 4))
        self.head = nn.Linear(4, 10)
        for norm in (self.na, self.nb, self.nc, self.nd):
            nn.init.normal_(norm.weight, 1.0, 0.2)
            nn.init.normal_(norm.bias, 0.0, 0.3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.nb(self.b(torch.relu(self.na(self.a(x))))))
        x = torch.relu(x + self.nd(self.d(torch.relu(self.nc(self.c(x))))))
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


X = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def ended(net: nn.Module, **settings: Any) -> dict[str, float]:
    """Let the method end a stage on a net as it is; return its report."""
    stage = stage_of(net.eval(), Digits())
    made = method(stage, **settings)
    made.end_stage(stage)
    return made.report(stage)


def test_channels_that_nobody_reads_are_cut_and_the_outputs_stay() -> None:
    """b doesn't read channels 1 and 4 of a, and d no channel 2 of c: a keeps 4 of 6 filters, c 3 of 4."""
    net = Chain()
    net.b.weight.data[:, [1, 4]] = 0.0
    net.d.weight.data[:, 2] = 1e-5
    with torch.no_grad():
        net.eval()
        before = net(X)
        report = ended(net, granularity=["channel"])
        assert without_reach(report) == {
            "channel_removed_percent": pytest.approx(100 * 3 / 19),
            "channels_cut_count": 3.0,
        }
        assert [len(m.weight) for m in (net.a, net.b, net.c, net.d)] == [4, 4, 3, 4]
        assert not attached(net)
        torch.testing.assert_close(net(X), before, atol=1e-3, rtol=0)


def test_what_only_held_weights_make_is_gone_however_large_they_are() -> None:
    """Filter 0 of a is held at zero, and what b reads of filter 3 and d of filter 1 of c: 1 of 18 filters is weak."""
    net = Chain()
    filters, columns, inner = (torch.zeros(m.weight.shape, dtype=torch.bool) for m in (net.a, net.b, net.d))
    filters[0], columns[:, 3], inner[:, 1] = True, True, True
    hold(net, "a", filters)
    hold(net, "b", columns)
    hold(net, "d", inner)
    assert without_reach(ended(net, granularity=["filter"])) == {
        "filter_removed_percent": pytest.approx(100 / 18),
        "channels_cut_count": 3.0,
    }
    assert [len(latent_of(m, "weight")) for m in (net.a, net.b, net.c, net.d)] == [4, 4, 3, 4]


def test_filters_without_weights_are_cut_or_masked_where_a_shortcut_couples_them() -> None:
    """Filters 0 and 3 of a and 1 of c are cut; of b and d, whose sum goes on, filter 2 of d is masked.

    Filters of a, b, c, d: 6 + 4 + 4 + 4 = 18; four are weak.
    """
    net = Chain()
    net.a.weight.data[[0, 3]] = 1e-5
    net.c.weight.data[1] = 0.0
    net.d.weight.data[2] = 1e-5
    report = ended(net, granularity=["filter"])
    assert without_reach(report) == {"filter_removed_percent": pytest.approx(100 * 4 / 18), "channels_cut_count": 3.0}
    assert [len(latent_of(m, "weight")) for m in (net.a, net.b, net.c, net.d)] == [4, 4, 3, 4]
    (mask,) = attached(net)
    assert mask.target == "d.weight"
    assert mask.transform.get_buffer("keep").flatten(1).any(1).tolist() == [True, True, False, True]
    assert torch.equal(net.d.weight[2], torch.zeros(3, 3, 3))


def test_neurons_of_linear_layers_are_cut_and_pixels_masked() -> None:
    """Of 64 pixels 3 and of 6 neurons 2 meet no weights; neuron 5 has none itself."""
    torch.manual_seed(0)
    net = mlp.build(Digits().facts, "mlp", hidden=[6])
    first, last = (latent_of(net.get_submodule(p), "weight").data for p in ("fc1", "fc2"))
    first[:, [0, 7, 9]], first[5], last[:, [2, 3]] = 0.0, 0.0, 0.0
    report = ended(net)
    assert report["filter_removed_percent"] == pytest.approx(100 / 6)
    assert report["channel_removed_percent"] == pytest.approx(100 * 5 / 70)
    assert report["channels_cut_count"] == 3.0
    assert latent_of(net.get_submodule("fc2"), "weight").shape == (10, 3)
    (mask,) = attached(net)
    assert mask.target == "fc1.weight"
    keep = mask.transform.get_buffer("keep")
    assert keep.shape == (3, 64)
    assert (~keep.any(0)).nonzero().flatten().tolist() == [0, 7, 9]


def test_a_weak_layer_keeps_its_largest_groups() -> None:
    net = Chain()
    net.a.weight.data *= 1e-6
    net.a.weight.data[3] *= 2
    ended(net, granularity=["filter"], zero_below=0.0)
    assert net.a.weight.shape == (1, 1, 3, 3)
    assert net.a.weight.any()


def test_shapes_become_thinner_products() -> None:
    """Two of nine columns of a and five of 54 of b are weak; each column of b costs 4 * 64 products."""
    net = Chain()
    net.a.weight.data[:, 0, 0, :2] = 1e-6
    net.b.weight.data[:, 2, 1, :] = 0.0
    net.b.weight.data[:, 5, 2, :2] = 1e-5
    report = ended(net, granularity=["shape"])
    assert without_reach(report) == {
        "shape_removed_percent": pytest.approx(100 * 7 / (9 + 54 + 36 + 36)),
        "channels_cut_count": 0.0,
    }
    with torch.no_grad():
        masked, baked = net(X), bake(net, REGISTRY).net
        assert (baked(X) - masked).abs().max() < 1e-5
    assert [type(m) is ThinnedConv2d for m in (baked.a, baked.b, baked.c)] == [True, True, False]
    work = {w.path: w.macs for w in count_work(Digits(), baked).layers}
    assert (work["a"], work["b"], work["c"]) == (6 * 7 * 64, 4 * 49 * 64, 4 * 36 * 64)


def test_layers_with_a_shortcut_around_them_go_whole() -> None:
    """c and d are weak and go; a is weak too, but no shortcut leads around it."""
    net = Chain()
    for module in (net.a, net.c, net.d):
        module.weight.data *= 1e-5
    report = ended(net, granularity=["depth"])
    assert without_reach(report) == {
        "depth_removed_percent": 100.0,
        "layers_removed_count": 2.0,
        "channels_cut_count": 0.0,
    }
    with torch.no_grad():
        masked, baked = net(X), bake(net, REGISTRY).net
        assert (baked(X) - masked).abs().max() < 1e-5
    assert not net.c.weight.any()
    assert not net.d.weight.any()
    assert net.a.weight.all()
    work = {w.path: w.macs for w in count_work(Digits(), baked).layers}
    assert work.get("c", 0) == work.get("d", 0) == 0
    assert not [name for name, p in baked.named_parameters() if name.startswith(("c.", "d.")) and p.numel()]


def test_two_branches_never_go_both() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.left, self.right = (nn.Conv2d(1, 4, 3) for _ in range(2))
            self.head = nn.Linear(4, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.head((self.left(x) + self.right(x)).relu().mean((2, 3)))  # type: ignore[no-any-return]

    net = Two()
    net.left.weight.data *= 1e-6
    net.right.weight.data *= 1e-5
    assert ended(net, granularity=["depth"])["layers_removed_count"] == 1.0
    assert not net.left.weight.any()
    assert net.right.weight.any()


def test_the_strongest_filter_and_the_strongest_channel_meet() -> None:
    """Filter 3 is the largest of a, and channel 1 the largest that b reads: all else of both is weak.

    Filter 3 alone would meet only zeros in b; so a keeps filter 1 too, which is then the one that is left.
    """
    net = Chain()
    net.a.weight.data *= 1e-6
    net.b.weight.data *= 1e-6
    net.a.weight.data[3] *= 10
    net.b.weight.data[:, 1] *= 10
    read = net.b.weight.data[:, 1].clone()
    ended(net, zero_below=0.0)
    assert net.a.weight.shape == (1, 1, 3, 3)
    assert net.a.weight.all()
    left = net.b.weight[:, 0]
    strongest = read.flatten(1).norm(dim=1).argmax()
    assert torch.equal(left[strongest], read[strongest])


class Keeps(Observer):
    """Keeps what masks hold at zero, and the values, as each stage ended."""

    def __init__(self) -> None:
        self.seen: list[dict[str, tuple[Tensor, Tensor]]] = []

    def stage_ended(self, stage: Stage) -> None:
        self.seen.append({w.path: (~w.alive, w.value.clone()) for w in stage.weights()})


def ran(path: Path, **settings: Any) -> tuple[Keeps, dict[str, Any]]:
    """Run a stage of the method and one of fine-tuning on a resnet8, which has eight layers."""
    given = recipe(
        [{"methods": [{"ssl": settings}]}, {"name": "fine-tune"}],
        data={"subset": {"size": 64}},
        train={"batch_size": 8, "epochs": 3, "optimizer": {"lr": 0.1}},
    )
    keeps = Keeps()
    return keeps, Run(given, REGISTRY, out=path / "run", device="cpu", observer=keeps).execute()


@pytest.mark.parametrize(
    "kinds", [["filter", "channel"], ["filter", "channel", "shape"], ["channel", "shape"]], ids="-".join
)
def test_no_layer_is_emptied_however_strong_the_penalty(kinds: list[str], tmp_path: Path) -> None:
    """No layer has a group above the threshold when the stage ends."""
    keeps, report = ran(tmp_path, granularity=kinds, strength=0.5, threshold=0.05)
    assert report["stages"][0]["report"]["ssl.channel_removed_percent"] > 80
    for layers in keeps.seen:
        assert len(layers) == 8
        assert [path for path, (_, values) in layers.items() if not values.any()] == []


def test_zeros_stay_while_the_net_trains_on(tmp_path: Path) -> None:
    """About half of the groups go; the second stage trains without penalties at a high rate."""
    keeps, report = ran(tmp_path, granularity=["filter", "channel", "shape"], strength=0.05, threshold=0.08)
    first, second = keeps.seen

    # Alive: each of the eight layers has weights, and all of them go on training.
    assert len(first) == 8
    assert all(values.any() for _, values in first.values())
    assert [path for path, (_, values) in first.items() if torch.equal(values, second[path][1])] == []

    assert sum(int(held.sum()) for held, _ in first.values()) > 100
    for path, (held, values) in first.items():
        assert not values[held].any()
        assert not second[path][1][held].any()
    assert report["stages"][0]["report"]["ssl.shape_removed_percent"] > 5
    assert report["after"]["parameters"] < report["before"]["parameters"]
    assert report["after"]["macs"] < report["before"]["macs"]


@pytest.mark.parametrize(
    ("settings", "error", "says"),
    [
        ({"granularity": ["filters"]}, UnknownKey, "did you mean 'filter'"),
        ({"granularity": []}, UsageError, "lists no kind of group"),
        ({"strengths": {"depth": 0.1}}, UsageError, "ssl.granularity lists no depth"),
        ({"factors": {"aa": 2.0}}, UnknownKey, "ssl.factors: unknown layer 'aa'; did you mean 'a'"),
        ({"granularity": ["shape"], "factors": {"head": 2.0}}, UnknownKey, "ssl.factors: unknown layer 'head'"),
        ({"granularity": ["depth"]}, NotApplicable, "no shortcut leads around any layer"),
    ],
)
def test_refusals(settings: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        method(pair(), **settings)
