from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.core.helpers import Watch, recipe
from tests.plugins.pruning.stages import Given
from torch import Tensor, nn

from condensery import NotApplicable, Registry, Run
from condensery.errors import MethodError
from condensery.nets import attached
from condensery.recipe import ModelSpec, StageSpec, TrainSpec, parse_recipe
from condensery.run import Observer, Player, Progress, Stage
from condensery.storage import open_artifact
from condensery.tasks import Batch, Task
from condensery_plugins.models import resnet, vgg
from condensery_plugins.pruning import residual_block_pruning
from condensery_plugins.pruning.residual_block_pruning import ResidualBlockPruning, around, measured
from condensery_plugins.quantization.lsq import LSQ
from condensery_plugins.tasks.digits import Digits

torch.set_num_threads(1)
REGISTRY = Registry.open()
BLOCKS = ["layer1.0", "layer1.1", "layer1.2", "layer2.1", "layer2.2", "layer3.1", "layer3.2"]
"""Of a ResNet-20: all but the two that halve the image."""


def stage_of(net: nn.Module, task: Task | None = None) -> Stage:
    stage = Stage(StageSpec(name="s"), task or Digits(), TrainSpec(), seed=0, device=torch.device("cpu"))
    stage.players = {"student": Player("student", net, spec=ModelSpec(key="given"), trains=True)}
    return stage


def prune(net: nn.Module, task: Task | None = None, **settings: Any) -> dict[str, float]:
    method = ResidualBlockPruning(**{"samples": 32, **settings})
    stage = stage_of(net, task)
    method.prepare(stage)
    return method.report(stage)


def gone(net: nn.Module) -> list[str]:
    return [n for n, m in net.named_modules() if isinstance(m, nn.Identity)]


class Add(nn.Module):
    """x + factor * x."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 1, 1, bias=False)
        self.conv.get_parameter("weight").data.fill_(factor)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x)  # type: ignore[no-any-return]


class Straight(Add):
    """The same without a shortcut."""

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)  # type: ignore[no-any-return]


class Line(nn.Module):
    """Blocks in a row that work on one number."""

    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__()
        self.stage = nn.Sequential(*blocks)
        self.roles = {"stages": ["stage"], "logits": []}

    def forward(self, x: Tensor) -> Tensor:
        return self.stage(x[:, None])[:, 0]  # type: ignore[no-any-return]


def numbers() -> Given:
    return Given(torch.tensor([[1.0], [3.0]]), torch.tensor([[0.0], [0.0]]))


@pytest.mark.parametrize("criterion", ["output", "block"])
def test_scores_worked_out_by_hand(criterion: str) -> None:
    """Factors 1.5, 2, 1.1 in a row make 3.3 of 1. Without one of them 2.2, 1.65 or 3 are left, a third, a half,
    an eleventh less: squared 1/9, 1/4 and 1/121. What they change of their own input is, squared, 0.25, 1 and 0.01.
    """
    net = Line(Add(0.5), Add(1.0), Add(0.1))
    stage = stage_of(net, numbers())
    method = ResidualBlockPruning(ratio=0.3, criterion=criterion, samples=2)  # type: ignore[arg-type]
    scores = method._scores(stage, net, ["stage.0", "stage.1", "stage.2"], stage.sample(2)).tolist()
    wanted = [1 / 9, 1 / 4, 1 / 121] if criterion == "output" else [0.25, 1.0, 0.01]
    assert scores == pytest.approx(wanted, rel=1e-5)
    report = prune(net, numbers(), criterion=criterion, ratio=0.3)
    assert gone(net) == ["stage.2"]
    assert report["output_change_percent"] == pytest.approx(100 / 121, rel=1e-5)
    assert report["blocks_removed_percent"] == pytest.approx(100 / 3)


@pytest.mark.parametrize(("ratio", "count"), [(0.0, 0), (0.1, 1), (1 / 7, 1), (0.3, 3), (3 / 7, 3), (0.99, 7)])
def test_the_share_is_rounded_up(ratio: float, count: int) -> None:
    net = resnet.build(Digits().facts, "resnet20", width=0.25)
    report = prune(net, ratio=ratio, criterion="random")
    assert report["blocks_removed_count"] == len(gone(net)) == count
    assert set(gone(net)) <= set(BLOCKS)


def test_only_blocks_with_a_shortcut_and_equal_shapes() -> None:
    """A stage is no block, nor are a layer alone and a block without a shortcut."""
    net = resnet.build(Digits().facts, "resnet20", width=0.25)
    stage = stage_of(net)
    assert residual_block_pruning.residual_blocks(net, stage, stage.sample(4)[0]) == BLOCKS
    line = Line(Add(0.5), Straight(2.0), nn.Conv1d(1, 1, 1), nn.Sequential(Add(1.0), Straight(1.0)))
    stage = stage_of(line, numbers())
    assert residual_block_pruning.residual_blocks(line, stage, stage.sample(2)[0]) == ["stage.0", "stage.3.0"]


class Listed(nn.Sequential):
    """A list of modules under a name of its own."""


class Around(nn.Sequential):
    """A list of modules with a shortcut around them: a block."""

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)  # type: ignore[no-untyped-call, no-any-return]


def test_a_block_may_be_a_list_with_a_forward_of_its_own() -> None:
    net = Line(Around(nn.Conv1d(1, 1, 1), nn.ReLU()), Listed(Add(1.0), Add(0.5)), Around(nn.ReLU()))
    stage = stage_of(net, numbers())
    assert residual_block_pruning.residual_blocks(net, stage, stage.sample(2)[0]) == [
        "stage.0",
        "stage.1.0",
        "stage.1.1",
    ]


def test_a_net_that_names_no_stages_is_told_how() -> None:
    net = Line(Add(0.5), Add(1.0), Add(0.1))
    del net.roles
    with pytest.raises(NotApplicable, match=r"doesn't say which modules its stages are.* roles = \{\"stages\": \["):
        prune(net, numbers())
    net.roles = {"stages": ["stage"]}
    assert prune(net, numbers(), ratio=0.3)["blocks_removed_count"] == 1


def test_behind_learned_steps_only_the_residual_block_is_found() -> None:
    """With its steps at zero a quantizer gives nan, which differs from itself."""
    line = Line(Add(0.5), Straight(2.0))
    stage = stage_of(line, numbers())
    LSQ().prepare(stage)
    assert {a.target for a in attached(line)} >= {"stage.1.conv.weight", "stage.1.conv:input"}
    assert residual_block_pruning.residual_blocks(line, stage, stage.sample(2)[0]) == ["stage.0"]
    ResidualBlockPruning(ratio=0.99, samples=2).prepare(stage)
    assert gone(line) == ["stage.0"]


def test_the_cut_net_is_the_one_that_steps_around() -> None:
    torch.manual_seed(0)
    net = resnet.build(Digits().facts, "resnet20", width=0.25).eval()
    twin = resnet.build(Digits().facts, "resnet20", width=0.25).eval()
    twin.load_state_dict(net.state_dict())
    before = sum(p.numel() for p in net.parameters())
    x = Digits().example(5)
    report = prune(net, ratio=0.4)
    with torch.no_grad(), around(twin, gone(net)):
        assert torch.equal(twin(x), net(x))
    with torch.no_grad():
        assert not torch.equal(twin(x), net(x))
    left = sum(p.numel() for p in net.parameters())
    assert report["parameters_removed_percent"] == pytest.approx(100 * (1 - left / before))
    assert report["largest_difference_ratio"] == 0.0


def test_a_net_that_differs_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(stage: Stage, paths: list[str]) -> None:
        for path in [*paths, "layer1.0"]:
            stage.replace(path, nn.Identity())

    monkeypatch.setattr(residual_block_pruning, "_put_identities", wrong)
    torch.manual_seed(0)
    net = resnet.build(Digits().facts, "resnet20", width=0.25)
    nn.init.constant_(net.get_parameter("layer1.0.bn2.weight"), 9.0)
    with pytest.raises(MethodError, match=r"without layer.* the net differs by .* from one that steps around"):
        prune(net, ratio=0.1)


def test_measured_sums_over_all_batches() -> None:
    """Of 1 and 3 the block makes 2 and 6: it changes 1 + 9 of 1 + 9, twice."""
    net = Line(Add(1.0))
    with measured(net, ["stage.0"]) as sums, torch.no_grad():
        for _ in range(2):
            net(torch.tensor([[1.0], [3.0]]))
    assert sums == {"stage.0": (20.0, 20.0)}


def test_optimizer_state_of_what_went_goes_too() -> None:
    net = resnet.build(Digits().facts, "resnet20", width=0.25)
    stage = stage_of(net)
    stage.student.carried = {n: {"momentum_buffer": p.detach()} for n, p in net.named_parameters()}
    ResidualBlockPruning(samples=8, ratio=0.99).prepare(stage)
    assert set(stage.student.carried) == {n for n, _ in net.named_parameters()}
    assert {w.path for w in stage.weights()} == {
        n for n, m in net.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)
    }


def test_not_on_a_net_without_residual_blocks() -> None:
    with pytest.raises(NotApplicable, match="no residual block with equal shapes"):
        prune(vgg.build(Digits().facts, "vgg16-bn", width=0.125))


# ---------------------------------------------------------------- whole recipes


def run(data: dict[str, Any], out: Path, *, resume: bool = False, observer: Observer | None = None) -> Run:
    made = Run(
        parse_recipe(json.loads(json.dumps(data))),
        REGISTRY,
        out=out,
        device="cpu",
        resume=resume,
        show=Progress(quiet=True),
        observer=observer,
    )
    made.execute()
    return made


@pytest.mark.parametrize("net", ["vit", "bert", "llama", "swin", "resnet"])
def test_blocks_go_from_each_kind_of_net(net: str, tmp_path: Path) -> None:
    models: dict[str, tuple[dict[str, Any], str]] = {
        "vit": ({"key": "vit", "dim": 24, "depth": 4, "patch_size": 4}, "digits"),
        "bert": ({"key": "transformer", "hidden": 24, "depth": 4}, "word-language"),
        "llama": (
            {"key": "hf/llama", "hidden_size": 32, "depth": 4, "num_attention_heads": 4, "intermediate_size": 20},
            "word-language",
        ),
        "resnet": ({"key": "timm/resnet18", "channels": [8, 16, 32, 64], "zero_init_last": False}, "digits"),
        "swin": ({"key": "timm/swin_tiny_patch4_window7_224"}, "digits"),
    }
    model, task = models[net]
    if net == "swin":
        model = {**model, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 2], "window_size": 2, "patch_size": 1}
    data = {
        "model": model,
        "task": task,
        "base": "none",
        "data": {"subset": {"size": 32}},
        "train": {"epochs": 1, "batch_size": 16, "optimizer": {"lr": 0.01}},
        "stages": [{"methods": [{"residual-block-pruning": {"samples": 16, "ratio": 0.25}}]}],
    }
    made = run(data, tmp_path / "o")
    report = {k.partition(".")[2]: v for k, v in made.stages[-1]["report"].items()}
    assert report["blocks_removed_count"] >= 1
    assert report["parameters_removed_percent"] > 0
    assert 0 <= report["largest_difference_ratio"] < 1e-5
    assert report["output_change_percent"] > 0
    assert made.baked is not None
    x = made.task.example(3)
    with torch.no_grad():
        mine = made.task.outputs(made.baked.net.eval(), Batch(x))
        assert torch.equal(
            made.task.outputs(open_artifact(tmp_path / "o" / "artifact.safetensors", REGISTRY).net, Batch(x)), mine
        )


def test_a_stack_keeps_a_layer(tmp_path: Path) -> None:
    model = {"key": "vit", "dim": 24, "depth": 3, "patch_size": 4}
    stage = {"methods": [{"residual-block-pruning": {"samples": 16, "ratio": 0.99}}]}
    made = Run(recipe([stage], model=model), REGISTRY, out=tmp_path / "o", device="cpu", show=Progress(quiet=True))
    made.execute()
    assert made.stages[-1]["report"]["residual-block-pruning.blocks_removed_count"] == 2
    with pytest.raises(NotApplicable, match=r"can't go: it is the only layer of 'blocks'"):
        Run(recipe([stage, stage], model=model), REGISTRY, out=tmp_path / "p", device="cpu").execute()


def test_rounds_resume_bit_by_bit_and_stop_when_nothing_is_left(tmp_path: Path) -> None:
    """A third of what is left of the seven blocks of a ResNet-20, rounded up: 3, 2, 1 and 1 go, then none."""
    what = recipe(
        [{"repeat": 5, "stages": [{"methods": [{"residual-block-pruning": {"samples": 16}}]}]}],
        model={"key": "resnet20", "width": 0.25},
    )
    whole = run(what.dump(), tmp_path / "a")
    with pytest.raises(KeyboardInterrupt):
        run(what.dump(), tmp_path / "b", observer=Watch(stop_after=1, where=lambda stage: stage.round == 1))
    again = run(what.dump(), tmp_path / "b", resume=True)
    counts = [s["report"]["residual-block-pruning.blocks_removed_count"] for s in whole.stages]
    assert counts == [3, 2, 1, 1, 0]
    assert [s["report"] for s in whole.stages] == [s["report"] for s in again.stages]
    assert whole.baked is not None
    assert again.baked is not None
    mine, theirs = whole.baked.net.state_dict(), again.baked.net.state_dict()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[n], theirs[n]) for n in mine)
