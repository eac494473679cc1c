from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.core.helpers import recipe
from tests.plugins.pruning.stages import Given, stage_of
from torch import Tensor, nn

from condensery import NotApplicable, Registry, Run, UnknownKey, UsageError
from condensery.contract import StageManager
from condensery.nets import attached, latent_of
from condensery.run import Defaults, Stage
from condensery.storage import bake, open_artifact
from condensery_plugins.pruning.group_brain_damage import GroupBrainDamage
from condensery_plugins.pruning.thinned import ThinnedConv2d, thin

REGISTRY = Registry.open()


class Net(nn.Module):
    """One convolution whose columns have norms 5, 1, 13 and 2, and a second one with norms 3, 0.1, 0.2 and 0.3."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(2, 2, (1, 2), bias=False), nn.Conv2d(2, 1, (1, 2), bias=False)
        self.deep, self.head = nn.Conv2d(1, 2, 1, bias=False), nn.Linear(2, 2)
        self.a.weight.data = torch.tensor([[[[3.0, 1.0]], [[5.0, 0.0]]], [[[-4.0, 0.0]], [[12.0, 2.0]]]])
        self.b.weight.data = torch.tensor([[[[3.0, 0.1]], [[0.2, -0.3]]]])

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.deep(self.b(self.a(x))).mean((2, 3)))  # type: ignore[no-any-return]


RATES = {"a": 0.5, "b": 0.5}


def stage_for(net: nn.Module, **settings: Any) -> tuple[Stage, GroupBrainDamage]:
    stage = stage_of(net, Given(torch.randn(8, 2, 1, 5), torch.zeros(8, dtype=torch.int64)))
    made = GroupBrainDamage(**settings)
    stage.manager = StageManager("m", [("group-brain-damage", made)], Defaults())
    made.prepare(stage)
    return stage, made


def kept(net: nn.Module) -> dict[str, list[bool]]:
    """Return by layer which columns some filter still reads."""
    return {
        a.target.partition(".")[0]: a.transform.get_buffer("keep").flatten(1).any(0).tolist() for a in attached(net)
    }


@pytest.mark.parametrize(
    ("penalty", "expected"),
    [
        ("l21", (5 + 1 + 13 + 2) + (3 + 0.1 + 0.2 + 0.3)),
        ("truncated", (2 + 1 + 2 + 2) + (0.2 + 0.1 + 0.2 + 0.2)),  # half of four go: cut off at the second smallest
    ],
)
def test_penalties_by_hand(penalty: str, expected: float) -> None:
    stage, made = stage_for(Net(), strength=0.5, penalty=penalty, rates=RATES)
    (term,) = made.loss_terms(stage, stage.student).values()
    assert term.item() == pytest.approx(0.5 * expected, rel=1e-6)


def test_truncated_norms_pull_only_at_what_would_go() -> None:
    """Of a, columns 1 = (1, 0) and 3 = (0, 2) go; with whole norms the first, (3, -4) of norm 5, is pulled too."""
    grads = {}
    for penalty in ("truncated", "l21"):
        stage, made = stage_for(Net(), strength=0.5, penalty=penalty, rates=RATES)
        made.loss_terms(stage, stage.student)["groups"].backward()  # type: ignore[no-untyped-call]
        grad = latent_of(stage.student.module.get_submodule("a"), "weight").grad
        assert grad is not None
        grads[penalty] = grad.flatten(1).T
    assert grads["truncated"].tolist() == [[0.0, 0.0], [0.5, 0.0], [0.0, 0.0], [0.0, 0.5]]
    torch.testing.assert_close(grads["l21"][0], torch.tensor([0.3, -0.4]))


def test_each_layer_loses_its_weakest_columns() -> None:
    net = Net()
    stage, made = stage_for(net, rates=RATES)
    assert not attached(net)
    made.end_stage(stage)
    assert kept(net) == {"a": [True, False, True, False], "b": [True, False, False, True]}
    assert made.report(stage) == {"groups_removed_percent": 50.0}


def test_global_ranks_by_mean_square() -> None:
    """a: 5, 1, 13, 2 over sqrt(2) = 3.5, 0.7, 9.2, 1.4; b: 1.5, 0.1, 2.5, 0.3; deep: 100. Four of nine go.

    That is 0.1, 0.3, 0.7 and 1.4; by plain norms the 1.5 of b would go, before the 2 of a.
    """
    net = Net()
    net.deep.weight.data.fill_(100.0)
    net.b.weight.data = torch.tensor([[[[1.5, 0.1]], [[2.5, -0.3]]]])
    stage, made = stage_for(net, sparsity=4 / 9, scope="global")
    made.end_stage(stage)
    assert kept(net) == {"a": [True, False, True, False], "b": [True, False, True, False], "deep": [True]}


def test_a_layer_keeps_one_column() -> None:
    net = Net()
    stage, made = stage_for(net, sparsity=0.99)
    made.end_stage(stage)
    assert kept(net) == {"a": [False, False, True, False], "b": [True, False, False, False], "deep": [True]}


def test_gradual_goes_in_even_steps() -> None:
    """Rate 0.5 of 4 columns in 2 steps over 8 steps: one column at step 4, the second at the end."""
    net = Net()
    stage = stage_of(net, Given(torch.randn(8, 2, 1, 5), torch.zeros(8, dtype=torch.int64)))
    stage.epochs, stage.steps_per_epoch = 2, 4
    made = GroupBrainDamage(rates={"a": 0.5}, schedule="gradual", steps=2)
    stage.manager = StageManager("m", [("group-brain-damage", made)], Defaults())
    made.prepare(stage)
    seen = []
    for step in range(8):
        stage.step = step
        made.before_step(stage)
        seen.append(sum(kept(net)["a"]))
    made.end_stage(stage)
    assert seen == [4, 4, 4, 4, 3, 3, 3, 3]
    assert kept(net) == {"a": [True, False, True, False]}


def test_a_fixed_pattern_knows_no_norms_and_repeats() -> None:
    patterns = []
    for _ in range(2):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        stage, made = stage_for(net, schedule="start", criterion="random")
        patterns.append(kept(net)["0"])
        made.end_stage(stage)
        assert kept(net)["0"] == patterns[-1]
        norms = latent_of(net[0], "weight").flatten(1).norm(dim=0)
    assert patterns[0] == patterns[1]
    assert sum(patterns[0]) == 9
    assert set(norms.argsort()[9:].tolist()) != {i for i, k in enumerate(patterns[0]) if k}


@pytest.mark.parametrize("held", range(4))
@pytest.mark.parametrize(("rate", "left"), [(0.25, 3), (0.5, 2), (0.75, 1)])
def test_columns_that_are_gone_count_whatever_draws_the_others(held: int, rate: float, left: int) -> None:
    """Of four columns one is gone already: it is one of those that go, and never the one that a layer keeps."""
    net = Net()
    stage = stage_of(net, Given(torch.randn(8, 2, 1, 5), torch.zeros(8, dtype=torch.int64)))
    weight = stage.weights()[0]
    thin(stage, weight, (torch.arange(4) != held).view(1, 2, 1, 2).expand(2, 2, 1, 2))
    GroupBrainDamage(rates={"a": rate}, schedule="start", criterion="random").prepare(stage)
    columns = kept(net)["a"]
    assert not columns[held]
    assert sum(columns) == left


def test_convolution_groups_have_their_own_columns() -> None:
    """Half of 8 columns of 2 groups go, the four of the second group but one: it keeps its largest."""
    net = nn.Sequential(nn.Conv2d(4, 4, (1, 2), groups=2, bias=False), nn.Flatten(), nn.Linear(16, 2))
    net[0].weight.data = torch.tensor([4.0, 3, 2, 5, 4, 3, 2, 5, 0.1, 0.2, 0.4, 0.3, 0.1, 0.2, 0.4, 0.3]).view(
        4, 2, 1, 2
    )
    stage = stage_of(net, Given(torch.randn(8, 4, 1, 5), torch.zeros(8, dtype=torch.int64)))
    made = GroupBrainDamage(sparsity=0.5)
    made.prepare(stage)
    made.end_stage(stage)
    keep = attached(net)[0].transform.get_buffer("keep").flatten(1)
    assert keep.tolist() == [[True] * 4] * 2 + [[False, False, True, False]] * 2


def test_a_trained_net_ends_thin_and_loads(tmp_path: Path) -> None:
    """LeNet-5 on 16x16: conv1 keeps 10 of 25 columns, conv2 100 of 250 (half width: 10 channels); both take part."""
    given = recipe(
        [{"methods": [{"group-brain-damage": {"sparsity": 0.6}}]}, {"name": "fine-tune"}],
        model={"key": "lenet-5", "width": 0.5},
        task={"key": "digits", "size": 16},
        data={"subset": {"size": 64}},
        train={"batch_size": 16, "epochs": 1, "optimizer": {"lr": 0.05}},
    )
    job = Run(given, REGISTRY, out=tmp_path / "run", device="cpu")
    report = job.execute()
    net = open_artifact(tmp_path / "run" / "artifact.safetensors", REGISTRY).net
    layers = [net.get_submodule(p) for p in ("conv1", "conv2")]
    assert all(isinstance(layer, ThinnedConv2d) for layer in layers)
    assert [layer.kept for layer in layers] == [[[10, 10]], [[25, 100]]]
    assert job.baked is not None
    x = torch.randn(3, 1, 16, 16)
    with torch.no_grad():
        assert torch.equal(net(x), job.baked.net(x))
    before, after = report["before"], report["after"]
    assert before["parameters"] - after["parameters"] == 10 * 15 + 25 * 150
    assert before["macs"] - after["macs"] == 10 * 15 * 144 + 25 * 150 * 4
    assert after["bytes"] < before["bytes"] - 4 * 25 * 150


def test_a_quantizer_keeps_its_grid(tmp_path: Path) -> None:
    """Behind LSQ the convolutions stay masked ones: what is thinned would be stored in 32 bits."""
    stages = ["group-brain-damage", {"methods": [{"lsq": {"weight_bits": 4}}]}]
    train = {"batch_size": 16, "epochs": 1, "optimizer": {"lr": 0.01}}
    job = Run(recipe(stages, train=train), REGISTRY, out=tmp_path / "run", device="cpu")
    job.execute()
    assert job.baked is not None
    layer = job.baked.net.get_submodule("layer1.0.conv1")
    assert type(layer) is nn.Conv2d
    assert job.baked.bits["layer1.0.conv1.weight"] == 4
    assert int((layer.weight.flatten(1) == 0).all(0).sum()) >= 36


@pytest.mark.parametrize(
    ("after", "thinned"),
    [
        ([{"l1-filter-pruning": {"ratio": 0.5}}], 7),
        ([{"ssl": {"granularity": ["filter", "shape"], "threshold": 0.1}}], 7),
        ([{"group-brain-damage": {"sparsity": 0.75, "schedule": "start"}}], 7),
        ([{"magnitude": {"sparsity": 0.9}}], 0),
        (["kmeans-sharing"], 0),
    ],
    ids=["filters cut", "groups cut", "more columns", "single weights", "shared"],
)
def test_later_stages_find_the_masks(after: list[Any], thinned: int, tmp_path: Path) -> None:
    """resnet8 has 7 convolutions; of layer1.0.conv1 at least half of the 8 * 9 columns stay at zero."""
    stages = ["group-brain-damage", {"methods": after}, {"name": "fine-tune"}]
    train = {"batch_size": 16, "epochs": 1, "optimizer": {"lr": 0.05}}
    job = Run(recipe(stages, train=train), REGISTRY, out=tmp_path / "run", device="cpu")
    report = job.execute()
    assert job.baked is not None
    layers = [m for m in job.baked.net.modules() if isinstance(m, ThinnedConv2d)]
    assert len(layers) == thinned
    net = open_artifact(tmp_path / "run" / "artifact.safetensors", REGISTRY).net
    x = torch.randn(3, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(net.eval()(x), job.baked.net(x))
    assert report["after"]["effective_macs"] <= 0.55 * report["before"]["macs"]
    assert (report["after"]["macs"] <= 0.55 * report["before"]["macs"]) == bool(thinned)


GROUPS: dict[str, Any] = {"group-brain-damage": {"schedule": "start"}}
FILTERS: dict[str, Any] = {"filter-pruning": {"samples": 16}}


@pytest.mark.parametrize(
    ("methods", "thinned"),
    [
        ([FILTERS, GROUPS], 7),
        ([GROUPS, FILTERS], 7),
        ([{"magnitude": {"sparsity": 0.5}}, GROUPS], 0),
    ],
    ids=["whole filters before", "whole filters after", "single weights before"],
)
def test_earlier_masks_thin_too_where_they_hold_whole_filters(methods: list[Any], thinned: int, tmp_path: Path) -> None:
    """resnet8 has 7 convolutions; four have filters that shortcuts couple, which are held at zero and not cut."""
    given = recipe([{"methods": [method]} for method in methods], train={"batch_size": 16, "epochs": 0})
    job = Run(given, REGISTRY, out=tmp_path / "run", device="cpu")
    job.execute()
    assert job.baked is not None
    assert sum(isinstance(m, ThinnedConv2d) for m in job.baked.net.modules()) == thinned
    net = open_artifact(tmp_path / "run" / "artifact.safetensors", REGISTRY).net
    x = torch.randn(3, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(net.eval()(x), job.baked.net(x))


@pytest.mark.parametrize(
    ("name", "says"), [("aa", "unknown layer 'aa'; did you mean 'a'"), ("head", "unknown layer 'head'; known: ")]
)
def test_rates_are_of_convolutions(name: str, says: str) -> None:
    with pytest.raises(UnknownKey, match=f"^group-brain-damage.rates: {says}"):
        stage_for(Net(), rates={name: 0.5})


@pytest.mark.parametrize(("cls", "thinned"), [(nn.Conv1d, False), (nn.Conv2d, True), (nn.Conv3d, False)])
def test_only_convolutions_over_two_dimensions_become_thin(cls: type[nn.Module], thinned: bool) -> None:
    """Of two inputs at 3, 9 or 27 kernel positions half go, in all filters alike."""
    net = nn.Sequential(cls(2, 4, 3))
    stage, method = stage_for(net)
    method.end_stage(stage)
    (masked,) = stage.weights()
    assert float((masked.value == 0).float().mean()) == 0.5
    assert isinstance(bake(net, REGISTRY).net.get_submodule("0"), ThinnedConv2d) is thinned


def test_rates_by_pattern_count_where_no_name_is_more_exact() -> None:
    """A quarter of four columns goes, of a three; deep has one column, and keeps it."""
    net = Net()
    stage, made = stage_for(net, rates={"*": 0.25, "a": 0.75})
    made.end_stage(stage)
    assert {path: sum(columns) for path, columns in kept(net).items()} == {"a": 1, "b": 3, "deep": 1}


def test_a_name_that_fits_no_convolution_takes_nothing() -> None:
    stage = stage_of(Net(), Given(torch.randn(8, 2, 1, 5), torch.zeros(8, dtype=torch.int64)))
    stage.dry = True
    with pytest.raises(UsageError, match=r"rates.shortcuts 0.5 takes nothing: no layer has a group to spare"):
        GroupBrainDamage(rates={"shortcuts": 0.5}).prepare(stage)


def test_depthwise_convolutions_share_no_columns() -> None:
    net = nn.Sequential(nn.Conv2d(2, 2, 1, groups=2), nn.Flatten(), nn.Linear(10, 2))
    with pytest.raises(NotApplicable, match="no convolution whose filters share inputs"):
        stage_for(net)
