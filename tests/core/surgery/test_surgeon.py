"""The surgeon of a stage: cuts by index and by score, narrowed inputs, and what happens to the optimizer."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from tests.core.helpers import offering, recipe
from tests.core.surgery.cut_nets import Gained
from torch import Tensor, nn

from condensery import Method, Registry, Run, UsageError, hookimpl
from condensery.errors import MethodError
from condensery.nets import CONVS, attached
from condensery.recipe import ModelSpec, StageSpec, TrainSpec
from condensery.run import Player, Stage
from condensery.surgery import Group, choose
from condensery_plugins.pruning.channel_selection import ChannelSelection, selection
from condensery_plugins.tasks.digits import Digits


class PreActivation(nn.Module):
    """Two blocks whose norms read a residual stream that others read as well."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 6, 3, padding=1)
        self.norm1, self.conv1 = nn.BatchNorm2d(6), nn.Conv2d(6, 4, 3, padding=1)
        self.inner, self.conv2 = nn.BatchNorm2d(4), nn.Conv2d(4, 6, 1)
        self.norm2, self.conv3 = nn.BatchNorm2d(6), nn.Conv2d(6, 6, 1)
        self.head = nn.Linear(6, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.conv2(torch.relu(self.inner(self.conv1(torch.relu(self.norm1(x))))))
        x = x + self.conv3(torch.relu(self.norm2(x)))
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


def stage_of(net: nn.Module) -> Stage:
    stage = Stage(StageSpec(name="s"), Digits(), TrainSpec(), seed=0, device=torch.device("cpu"))
    stage.players = {"student": Player("student", net, spec=ModelSpec(key="given"), trains=True)}
    return stage


def step(stage: Stage, optimizer: torch.optim.Optimizer) -> None:
    stage.task.answers(stage.student.module, stage.task.example(4))[0].square().sum().backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    optimizer.zero_grad()


def test_given_indices() -> None:
    stage = stage_of(PreActivation())
    done = stage.surgeon.remove_channels({"conv1": [0, 2], "inner": [2, 3]})
    assert done.removed == {"conv1": [0, 2, 3]}
    assert done.ratio == 0.75
    assert done.cut is not None
    assert done.cut.attributes["inner"] == {"num_features": (4, 1)}
    assert stage.student.module.get_parameter("conv2.weight").shape == (6, 1, 1, 1)
    with pytest.raises(UsageError, match="layer 'head' can't be cut: its channels are the net's outputs"):
        stage.surgeon.remove_channels({"head": [0]})
    assert stage.surgeon.remove_channels({}).cut is None


def test_groups_and_what_is_prunable() -> None:
    surgeon = stage_of(PreActivation()).surgeon
    stream, inner = surgeon.prunable()
    assert (set(stream.layers), set(stream.norms), stream.channels) == (
        {"stem", "conv2", "conv3"},
        {"norm1", "norm2"},
        6,
    )
    assert (inner.layers, inner.norms, inner.channels) == (("conv1",), ("inner",), 4)
    assert [g.layers for g in surgeon.groups() if g.reason is not None] == [("head",)]


def test_scores_of_coupled_layers_add_up_and_the_rest_is_left_out() -> None:
    """The stream's sums are 3, 3, 1, 9, 9, 2; conv1's are 5, 0, 8, 8: half of 10 are 0, 1, 2, 3, 3."""
    stage = stage_of(PreActivation())
    scores = {
        "norm1": torch.tensor([1.0, 2.0, 0.5, 4.0, 5.0, 1.0]),
        "norm2": torch.tensor([2.0, 1.0, 0.5, 5.0, 4.0, 1.0]),
        "conv1": torch.tensor([5.0, 0.0, 8.0, 8.0]),
        "head": torch.ones(10),
    }
    done = stage.surgeon.remove_channels(scores, ratio=0.5)
    assert done.removed == {"stem": [0, 1, 2, 5], "conv1": [1]}
    assert done.ratio == 0.5
    assert list(done.left_out) == ["head"]
    assert "net's outputs" in done.left_out["head"]
    with pytest.raises(UsageError, match=r"layer 'conv1' has 3 channels, got scores of \(4,\)"):
        stage.surgeon.remove_channels({"conv1": torch.ones(4)}, ratio=0.5)


def test_local_scores_keep_one_of_each() -> None:
    stage = stage_of(PreActivation())
    scores = {w.path: w.latent.detach().abs().flatten(1).sum(1) for w in stage.weights(kinds=CONVS)}
    done = stage.surgeon.remove_channels(scores, ratio=1.0, scope="local")
    assert stage.student.module.get_parameter("conv1.weight").shape == (1, 1, 3, 3)
    assert done.ratio == 8 / 10


def test_what_goes_through_a_norm_and_who_reads_it() -> None:
    surgeon = stage_of(PreActivation()).surgeon
    assert surgeon.goes_through("conv1", "inner")
    assert not surgeon.goes_through("stem", "norm1")
    assert surgeon.readers("norm1") == ["conv1"]
    assert surgeon.readers("inner") == ["conv2"]
    assert surgeon.readers("stem") == []
    assert surgeon.inputs_gone({"conv1": [1]})["conv2"] == [1]


class ReadsTwice(nn.Module):
    """A norm's layer that reads something else as well, or could: the image, its own outputs, what a tie reads."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.norm, self.conv, self.tied = nn.BatchNorm2d(1), nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1)
        self.slope, self.head = nn.PReLU(1), nn.Linear(64, 10)
        if kind in ("tied", "idle"):
            self.tied.weight = self.conv.weight

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(x) if self.kind == "image" else x)
        y = self.conv(self.slope(y) if self.kind == "slope" else torch.relu(y))
        if self.kind == "own":
            y = self.conv(y)
        if self.kind in ("tied", "once"):
            y = self.tied(y)
        if self.kind == "slope":
            y = self.tied(self.slope(y))
        return self.head(y.flatten(1))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("kind", "readers"),
    [("once", ["conv"]), ("image", []), ("own", []), ("tied", []), ("idle", []), ("slope", [])],
)
def test_a_layer_that_reads_something_else_too_is_no_reader(kind: str, readers: list[str]) -> None:
    assert stage_of(ReadsTwice(kind)).surgeon.readers("norm") == readers


def test_inputs_are_narrowed_behind_a_selection_twice() -> None:
    net = PreActivation()
    stage = stage_of(net)
    net.eval()
    for gone, left in (([1, 4], [0, 2, 3, 5]), ([1, 2, 4], [0, 3, 5])):
        for tensor in (net.norm1.get_parameter("weight"), net.norm1.get_parameter("bias")):
            tensor.data[gone] = 0.0
        keep = torch.ones(6, dtype=torch.bool)
        keep[gone] = False
        x = stage.task.example(3)
        want = net(x)
        assert stage.surgeon.readers("norm1") == ["conv1"]
        cut = stage.surgeon.narrow_inputs({"conv1": keep}, selection)
        assert cut is not None
        torch.testing.assert_close(net(x), want)
        (item,) = attached(net)
        assert item.target == "conv1:input"
        assert isinstance(item.transform, ChannelSelection)
        assert item.transform.index.tolist() == left
        assert net.conv1.in_channels == len(left) == net.get_parameter("conv1.weight").shape[1]
        assert net.norm1.num_features == 6
    assert stage.surgeon.narrow_inputs({"conv1": keep}, selection) is None
    stage.surgeon.remove_channels({"conv1": [3]})  # its own outputs can still be cut; the stream can't
    with pytest.raises(
        UsageError, match=r"layer 'stem' can't be cut: conv1 has only 3 channels of the 6 \(IndexSelect\)"
    ):
        stage.surgeon.remove_channels({"stem": [0]})


def test_inputs_that_are_not_zero_are_not_taken_away() -> None:
    net = PreActivation()
    stage = stage_of(net)
    with pytest.raises(MethodError, match="differs by"):
        stage.surgeon.narrow_inputs({"conv1": torch.tensor([True] * 5 + [False])}, selection)
    assert net.conv1.in_channels == 6
    assert not attached(net)


def test_a_registered_layer_reads_fewer_inputs() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.ReLU(), Gained(4, 10))
    for tensor in (net[1].get_parameter("weight"), net[1].get_parameter("bias")):
        tensor.data[1] = 0.0
    stage = stage_of(net)
    x = stage.task.example(3)
    want = net(x)
    assert stage.surgeon.narrow_inputs({"3": torch.tensor([True, False, True, True])}, selection) is not None
    torch.testing.assert_close(net(x), want)
    assert net.get_parameter("3.latent").shape == (10, 3)
    assert isinstance(net[3], Gained)
    assert net[3].in_features == 3


def test_a_live_optimizer_goes_on_with_sliced_momentum() -> None:
    stage = stage_of(PreActivation())
    player = stage.student
    player.optimizer = torch.optim.SGD(player.groups(stage.train.optimizer), lr=0.01, momentum=0.9)
    step(stage, player.optimizer)
    before = player.optimizer_state()
    moment = before["conv2.weight"]["momentum_buffer"].clone()
    stage.surgeon.remove_channels({"conv1": [1]})
    after = player.optimizer_state()
    assert after.keys() == before.keys() == player.parameters().keys()
    assert torch.equal(after["conv2.weight"]["momentum_buffer"], moment[:, [0, 2, 3]])
    step(stage, player.optimizer)
    held = {id(p) for g in player.optimizer.param_groups for p in g["params"]}
    assert held == {id(p) for p in player.parameters().values()}


@dataclasses.dataclass(eq=False, kw_only=True)
class Cutter(Method):
    """Cuts two filters of the first block's first convolution."""

    key = "cutter"
    when: str = "prepare"

    def cut(self, stage: Stage) -> None:
        stage.surgeon.remove_channels({"layer1.0.conv1": [0, 5]})

    @hookimpl
    def prepare(self, stage: Stage) -> None:
        self.found_ = len(stage.student.carried)
        if self.when == "prepare":
            self.cut(stage)

    @hookimpl
    def end_stage(self, stage: Stage) -> None:
        if self.when == "end_stage":
            self.cut(stage)

    @hookimpl
    def report(self, stage: Stage) -> dict[str, float]:
        state = stage.student.optimizer_state()
        fits = [n for n, p in stage.student.parameters().items() if state[n]["momentum_buffer"].shape == p.shape]
        return {"fitting_count": len(fits), "carried_count": self.found_}


@pytest.mark.parametrize("when", ["prepare", "end_stage"])
def test_carried_optimizer_state_arrives_after_a_cut(when: str, tmp_path: Path) -> None:
    found = Registry.open([("given", offering(methods={"cutter": Cutter}))])
    train = {"epochs": 1, "batch_size": 16, "optimizer": {"lr": 0.05, "options": {"momentum": 0.9}}}
    first = {"name": "a", "methods": [{"cutter": {"when": "end_stage" if when == "end_stage" else "never"}}]}
    second = {"name": "b", "methods": [{"cutter": {"when": "prepare" if when == "prepare" else "never"}}]}
    given = recipe([first, {**second, "epochs": 0}], train={**train, "carry_optimizer": True})
    report = Run(given, found, out=tmp_path / "run", device="cpu").execute()
    parameters = 3 * 7 + 2  # seven convolutions with scale and shift, and the linear layer
    assert report["stages"][1]["report"] == {"cutter.fitting_count": parameters, "cutter.carried_count": parameters}
    removed = 2 * (8 * 9 + 2 + 8 * 9)  # filters, scale and shift, and what reads them
    assert report["before"]["parameters"] - report["after"]["parameters"] == removed


def test_choosing_by_score_counts_ranks_and_keeps_one() -> None:
    a, b = Group(("a",), (), 4), Group(("b",), (), 2)
    scores = {a: torch.tensor([4.0, 1.0, 3.0, 2.0]), b: torch.tensor([0.2, 0.1])}
    assert choose(scores, 0.5, "global") == {"b": [1], "a": [1, 3]}
    assert choose(scores, 1.0, "global") == {"b": [1], "a": [1, 3, 2]}
    assert choose(scores, 0.5, "local") == {"a": [1, 3], "b": [1]}
    assert choose(scores, 0.0, "global") == {}


def test_choosing_takes_as_many_from_each_block() -> None:
    """Blocks (5, 1, 4) and (2, 9, 3): ranks give the pairs (1, 2) of mean 1.5 and (4, 3) of mean 3.5."""
    group = Group(("a",), (), 6, blocks=2)
    score = torch.tensor([5.0, 1.0, 4.0, 2.0, 9.0, 3.0])
    assert choose({group: score}, 0.5, "global") == {"a": [1, 3]}
    assert choose({group: score}, 0.7, "global") == {"a": [1, 3, 2, 5]}


def test_a_graph_serves_a_net_that_is_built_alike_with_its_own_values() -> None:
    """What the second net's cut is compared with are its own values: the first one's would prove nothing."""
    first, second, third = (stage_of(PreActivation()) for _ in range(3))
    graph = first.surgeon.graph
    second.graphs = third.graphs = first.graphs
    assert second.surgeon.graph is graph
    wanted, found = second.student.module.get_parameter("conv3.weight"), graph.net.get_parameter("conv3.weight")
    assert torch.equal(found, wanted.double())
    assert not torch.equal(found, first.student.module.get_parameter("conv3.weight").double())

    third.student.module.conv1.padding_mode = "circular"  # type: ignore[union-attr]
    assert third.surgeon.graph is not graph
    assert third.graphs == [third.surgeon.graph]
