from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.core.helpers import untouched
from tests.plugins.pruning.nets import run
from tests.plugins.pruning.stages import stage_of
from torch import Tensor, nn

from condensery import NotApplicable
from condensery.nets import BATCH_NORMS, CONVS
from condensery.run import Stage
from condensery_plugins.pruning.filter_pruning import FilterPruning
from condensery_plugins.pruning.filters import (
    hold_filters,
    is_there,
    kept,
    norms_behind,
    remove_filters,
    smallest,
    zeroed,
)
from condensery_plugins.pruning.l1_filter_pruning import L1FilterPruning
from condensery_plugins.pruning.network_slimming import NetworkSlimming
from condensery_plugins.pruning.ssl import StructuredSparsityLearning
from condensery_plugins.tasks.digits import Digits

RESNET = {"key": "resnet8", "width": 0.5}


@pytest.mark.parametrize(
    ("filters", "rate", "count"),
    [(16, 0.3, 4), (32, 0.3, 9), (64, 0.3, 19), (10, 0.1, 1), (100, 0.29, 29), (4, 0.99, 3), (1, 0.9, 0)],
)
def test_the_zeroed_count_is_a_floor(filters: int, rate: float, count: int) -> None:
    assert zeroed(filters, rate) == count


def test_the_kept_count_is_a_floor_in_decimals() -> None:
    pairs = {(16, 0.9): 14, (16, 0.4): 6, (32, 0.7): 22, (10, 0.1): 1, (64, 0.5): 32, (2, 0.1): 1, (100, 0.29): 29}
    assert {pair: kept(*pair) for pair in pairs} == pairs
    assert int(100 * 0.29) == 28, "which is why the share isn't taken in binary floats"


SCORES = {"a": torch.tensor([0.1, 0.2, 0.3, 0.4]), "b": torch.tensor([0.5, 0.6, 0.05, 0.7])}
OFF = float("-inf")


@pytest.mark.parametrize(
    ("ratio", "scope", "cap", "a", "b"),
    [
        (0.5, "global", 1.0, [True, True, True, False], [False, False, True, False]),
        (0.5, "local", 1.0, [True, True, False, False], [True, False, True, False]),
        (0.5, "global", 0.5, [True, True, False, False], [False, False, True, False]),
        (0.99, "global", 1.0, [True, True, True, False], [True, True, True, False]),
    ],
)
def test_what_goes_by_scope_and_cap(ratio: float, scope: str, cap: float, a: list[bool], b: list[bool]) -> None:
    found = smallest(SCORES, ratio, scope, cap)
    assert {n: f.tolist() for n, f in found.items()} == {"a": a, "b": b}


def test_channels_that_are_off_already_neither_count_nor_go() -> None:
    """Two of the five that are there."""
    scores = {"a": torch.tensor([0.3, OFF, 0.4]), "b": torch.tensor([0.1, 0.2, 0.5])}
    found = smallest(scores, 0.4, "global")
    assert {n: f.tolist() for n, f in found.items()} == {"a": [False, False, False], "b": [True, True, False]}


def test_the_cap_is_of_the_channels_still_there() -> None:
    """Four of a are left and two of b: half of all is three, half of a two; a layer without channels loses none."""
    scores = {
        "a": torch.tensor([OFF, 0.1, OFF, 0.2, 0.3, 0.4]),
        "b": torch.tensor([0.5, 0.6]),
        "c": torch.tensor([OFF]),
    }
    found = smallest(scores, 0.5, "global", 0.5)
    assert found["a"].tolist() == [False, True, False, True, False, False]
    assert not found["b"].any()
    assert not found["c"].any()
    assert not smallest(scores, 0.5, "local")["c"].any()


def test_norms_are_found_where_they_read_exactly_what_a_layer_writes(tmp_path: Path) -> None:
    def look(stage: Stage) -> None:
        paths = [w.path for w in stage.weights(kinds=CONVS)]
        with untouched(stage.student.module):
            assert norms_behind(stage, paths) == {p: p.replace("conv", "bn") for p in paths}
        assert len(paths) == 7

    run(tmp_path, [{"methods": ["look"], "epochs": 0}], RESNET, {"prepare": look})


def test_depthwise_convolutions_and_shortcuts_are_left_out(tmp_path: Path) -> None:
    def left(stage: Stage, *skip: str) -> list[str]:
        return [w.path for w in FilterPruning(skip=list(skip)).convolutions(stage)]

    def look(stage: Stage) -> None:
        assert FilterPruning().skip == ["shortcuts"]
        assert left(stage, "shortcuts") == left(stage, "downsample") == left(stage, "down*") == ["conv"]
        assert left(stage) == ["conv", "downsample.0"]
        assert left(stage, "first") == ["downsample.0"]
        with pytest.raises(NotApplicable, match=r"filter-pruning .* the net has no convolution whose filters may go"):
            left(stage, "*")

    run(tmp_path, [{"methods": ["look"], "epochs": 0}], "mobile-cnn", {"prepare": look})


def test_a_held_filter_gives_nothing_though_its_norm_had_a_shift(tmp_path: Path) -> None:
    def look(stage: Stage) -> None:
        net = stage.student.module
        with torch.no_grad():
            for tensor in ("weight", "bias"):
                for weight in stage.weights(kinds=BATCH_NORMS, tensor=tensor):
                    weight.latent.fill_(0.7)
        gone = torch.tensor([True] + [False] * 6 + [True])
        hold_filters(stage, {"conv1": gone})
        seen = stage.record_inputs(["layer1.0.conv1"], 4)["layer1.0.conv1"][0]
        assert bool((seen[:, gone] == 0).all())
        assert bool((seen[:, ~gone] != 0).flatten(2).any(2).all())
        kept = {n: b.clone() for n, b in net.named_buffers() if n.endswith("keep")}
        assert {n.partition(".")[0] for n in kept} == {"conv1", "bn1"}

    run(tmp_path, [{"methods": ["look"], "epochs": 0}], RESNET, {"prepare": look})


def test_biases_go_with_their_filters(tmp_path: Path) -> None:
    def look(stage: Stage) -> None:
        hold_filters(stage, {"conv1": torch.tensor([False, True, True, False])})
        seen = stage.record_inputs(["conv2"], 4)["conv2"][0]
        assert bool((seen[:, 1:3] == 0).all())

    run(tmp_path, [{"methods": ["look"], "epochs": 0}], "plain-cnn", {"prepare": look})


def test_what_no_shortcut_couples_is_cut_and_the_rest_held(tmp_path: Path) -> None:
    """Of a residual net only the first layer of a block is alone: its two filters go; the stem's are held at zero."""

    def look(stage: Stage) -> None:
        gone = {p: torch.tensor([True] * 2 + [False] * 6) for p in ("conv1", "layer1.0.conv1", "layer1.0.conv2")}
        assert remove_filters(stage, gone) == (2, 4)
        weights = stage.weights().by_path
        assert weights["layer1.0.conv1"].latent.shape == (6, 8, 3, 3)
        assert weights["layer1.0.conv2"].latent.shape == (8, 6, 3, 3)
        assert is_there(weights["conv1"]).tolist() == [False] * 2 + [True] * 6
        assert is_there(weights["layer1.0.conv2"]).tolist() == [False] * 2 + [True] * 6

    run(tmp_path, [{"methods": ["look"], "epochs": 0}], RESNET, {"prepare": look})


def test_cutting_gives_the_outputs_of_holding(tmp_path: Path) -> None:
    found = []

    def look(stage: Stage, cut: bool) -> None:
        batch = stage.task.example(4)
        gone = {"layer1.0.conv1": torch.arange(8) % 2 == 0, "layer2.0.conv1": torch.arange(16) < 5}
        (remove_filters if cut else hold_filters)(stage, gone)
        net = stage.student.module.eval()
        found.append(stage.task.answers(net, batch)[0].detach())

    for cut in (True, False):
        path, stage = tmp_path / str(cut), {"methods": ["look"], "epochs": 0}
        run(path, [stage], RESNET, {"prepare": functools.partial(look, cut=cut)})
    torch.testing.assert_close(found[1], found[3])
    assert float(found[1].std()) > 0


class Twice(nn.Module):
    """A convolution that is called twice, so that what it reads and what it writes are equally wide."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.again = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.linear = nn.Linear(4, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.again(self.again(self.stem(x)).relu()).mean((2, 3)))  # type: ignore[no-any-return]


class Alone(nn.Module):
    """One convolution, which writes the net's outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 10, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).flatten(1)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("net", "method", "why"),
    [
        (
            Twice(),
            L1FilterPruning(),
            "no convolution can lose filters by itself; stem: its channels go with those of again",
        ),
        (Twice(), FilterPruning(coupled="leave"), "its channels go with those of again"),
        (Alone(), L1FilterPruning(), "layer 'conv' can't be cut: its channels are the net's outputs"),
        (Alone(), FilterPruning(), "no convolution whose filters may go; 'conv' writes the net's outputs"),
    ],
)
def test_a_refusal_says_why_filters_cannot_go(net: nn.Module, method: Any, why: str) -> None:
    with pytest.raises(NotApplicable, match=why):
        method.prepare(stage_of(net, Digits()))


# ---------------------------------------------------------------- layers that write the net's outputs


class Detecting(nn.Module):
    """Two heads, each one convolution, on one body; the net answers with their means."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.classes = nn.Conv2d(1, 6, 3, padding=1), nn.Conv2d(6, 10, 1)
        self.boxes = nn.Sequential(nn.Conv2d(6, 4, 1), nn.BatchNorm2d(4))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.body(x).relu()
        return self.classes(x).mean((2, 3)), self.boxes(x)


def test_filters_that_write_the_nets_outputs_stay() -> None:
    """At zero the score of a class would be the same for every image, which no training can mend."""
    stage = stage_of(Detecting(), Digits())
    assert [w.path for w in FilterPruning().convolutions(stage)] == ["body"]
    spared = {path: why for path, why in stage.left_out.items() if why == "its channels are the net's outputs"}
    assert spared.keys() == {"classes", "boxes.0"}
    with pytest.raises(NotApplicable, match="every batch normalization's channels are the net's outputs"):
        NetworkSlimming().prepare(stage)

    groups = StructuredSparsityLearning(granularity=["filter"])
    groups.prepare(stage)
    assert groups.layers_ == {"filter": ["body"]}


# ---------------------------------------------------------------- norms behind held filters


class SharedNorm(nn.Module):
    """One norm behind two convolutions, two norms behind a third one that is called twice, and a norm over groups."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.both = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.again, self.n1, self.n2 = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.c, self.grouped = nn.Conv2d(4, 4, 3, padding=1), nn.GroupNorm(2, 4)
        self.linear = nn.Linear(4, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.both(self.a(x)) + self.both(self.b(x))
        x = self.n2(self.again(self.n1(self.again(x)).relu()))
        return self.linear(self.grouped(self.c(x)).relu().mean((2, 3)))  # type: ignore[no-any-return]


def test_a_norm_loses_what_all_that_it_reads_lose() -> None:
    stage = stage_of(SharedNorm(), Digits())
    gone = {"a": [1, 1, 0, 0], "b": [1, 0, 1, 0], "again": [0, 1, 1, 0], "c": [0, 0, 1, 1]}
    hold_filters(stage, {path: torch.tensor(off).bool() for path, off in gone.items()})
    scales = stage.weights(kinds=(nn.BatchNorm2d, nn.GroupNorm))
    on = {scale.path: (scale.value != 0).int().tolist() for scale in scales}
    assert on == {"both": [0, 1, 1, 1], "n1": [1, 0, 0, 1], "n2": [1, 0, 0, 1], "grouped": [1, 1, 0, 0]}
