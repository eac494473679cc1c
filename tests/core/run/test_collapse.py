"""What a run says of a net that a stage has killed. The net is a perceptron, fc1 (16 units), relu, fc2."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.core.helpers import Act, Watch, offering, recipe, registry
from torch import Tensor, nn

from condensery import Registry, Run, hookimpl
from condensery.errors import NonFiniteNet
from condensery.nets import QUANTIZE, Transform
from condensery.recipe import derive_seed
from condensery.run import Observer, Stage
from condensery.storage import open_artifact
from condensery_plugins.pruning.masks import Mask

PERCEPTRON = {"key": "mlp", "hidden": [16]}
CONSTANT = "outputs are constant"


def method(key: str, end: Callable[[Stage], object]) -> type[Act]:
    """Return a method of this key that does one thing to a net, when its stage ends."""

    class Ends(Act):
        @hookimpl
        def end_stage(self, stage: Stage) -> None:
            with torch.no_grad():
                end(stage)

    Ends.__name__ = Ends.key = key
    return Ends


def run(out: Path, end: Callable[[Stage], object], model: dict[str, Any] = PERCEPTRON) -> dict[str, Any]:
    """Return the report of a stage that trains, then does something to its net."""
    what = recipe([{"name": "s", "methods": ["ends"]}], model=model)
    return Run(what, registry(ends=method("ends", end)), out=out).execute()


def latent(stage: Stage, path: str, tensor: str = "weight") -> Tensor:
    return stage.weights(tensor=tensor).by_path[path].latent


def wipe(*paths: str) -> Callable[[Stage], object]:
    return lambda stage: [latent(stage, path).zero_() for path in paths]


def kill_units(stage: Stage) -> None:
    """No unit of the hidden layer is ever above zero, though all weights are as they were."""
    latent(stage, "fc1", "bias").fill_(-1000.0)


def mask(stage: Stage) -> None:
    held = Mask(latent(stage, "fc2").shape)
    held.keep.zero_()
    stage.attach("fc2.weight", "mask", held)


def test_a_net_that_lives_is_not_marked(tmp_path: Path) -> None:
    report = run(tmp_path / "o", lambda stage: None)
    assert report["collapsed"] == []
    assert "collapsed" not in report["stages"][0]
    assert "collapsed" not in open_artifact(tmp_path / "o" / "artifact.safetensors").manifest


@pytest.mark.parametrize(
    ("end", "what"),
    [
        (wipe("fc2"), ["fc2", CONSTANT]),
        (wipe("fc1", "fc2"), ["fc1", "fc2", CONSTANT]),
        (mask, ["fc2", CONSTANT]),
        (kill_units, [CONSTANT]),
    ],
    ids=["last layer", "both layers", "through a mask", "no unit fires"],
)
def test_report_and_artifact_name_stage_methods_and_what_died(
    end: Callable[[Stage], object], what: list[str], tmp_path: Path
) -> None:
    report = run(tmp_path / "o", end)
    mark = {"stage": "s", "methods": ["ends"], "what": what}
    assert report["collapsed"] == [mark]
    assert json.loads((tmp_path / "o" / "report.json").read_text())["collapsed"] == [mark]

    found = open_artifact(tmp_path / "o" / "artifact.safetensors")
    assert found.manifest["collapsed"] == [mark]
    with torch.no_grad():
        outputs = found.net(torch.eye(64).view(64, 1, 8, 8))
    assert torch.equal(outputs, outputs[:1].expand_as(outputs))


def test_a_layer_that_a_shortcut_leads_around_is_named_though_outputs_differ(tmp_path: Path) -> None:
    report = run(tmp_path / "o", wipe("layer1.0.conv1"), {"key": "resnet8", "width": 0.5})
    assert [mark["what"] for mark in report["collapsed"]] == [["layer1.0.conv1"]]


def test_a_norm_whose_scales_are_all_zero_has_died(tmp_path: Path) -> None:
    def end(stage: Stage) -> None:
        stage.weights(kinds=(nn.BatchNorm2d,)).by_path["layer2.0.bn1"].latent.zero_()

    report = run(tmp_path / "o", end, {"key": "resnet8", "width": 0.5})
    assert [mark["what"] for mark in report["collapsed"]] == [["layer2.0.bn1"]]


def test_what_a_method_gives_up_has_not_collapsed(tmp_path: Path) -> None:
    def end(stage: Stage) -> None:
        wipe("layer1.0.conv1", "layer1.0.conv2", "layer2.0.conv1", "layer3.0.conv1")(stage)
        for path in ("layer1", "layer2.0.conv1", "layer3.0.conv"):  # the last one is no layer, nor part of one
            stage.give_up(path)

    report = run(tmp_path / "o", end, {"key": "resnet8", "width": 0.5})
    assert [mark["what"] for mark in report["collapsed"]] == [["layer3.0.conv1"]]


def test_only_the_stage_that_killed_is_marked_also_after_a_resume(tmp_path: Path) -> None:
    stages = [{"name": "first"}, {"name": "kills", "methods": ["kills"]}, {"name": "last", "epochs": 2}]
    what, found = recipe(stages, model=PERCEPTRON), registry(kills=method("kills", wipe("fc1", "fc2")))
    marks = [{"stage": "kills", "methods": ["kills"], "what": ["fc1", "fc2", CONSTANT]}]

    def stopped() -> Watch:
        return Watch(stop_after=1, where=lambda stage: stage.name == "last")

    with pytest.raises(KeyboardInterrupt):
        Run(what, found, out=tmp_path / "o", observer=stopped()).execute()
    report = Run(what, found, out=tmp_path / "o", resume=True).execute()
    assert report["collapsed"] == marks
    assert len(report["stages"]) == 3


@pytest.mark.parametrize(
    ("number", "path", "says"),
    [(float("nan"), "fc1", r"fc1\.weight"), (float("inf"), "fc2", r"fc2\.weight"), (3e38, "fc2", "an output")],
)
def test_what_is_not_finite_is_an_error_and_the_folder_is_kept(
    number: float, path: str, says: str, tmp_path: Path
) -> None:
    with pytest.raises(NonFiniteNet, match=rf"^stage 's' \(ends\): {says} is not finite$"):
        run(tmp_path / "o", lambda stage: latent(stage, path).fill_(number))
    kept = {file.name for file in (tmp_path / "o").iterdir()}
    assert {"recipe.json", "log.jsonl", "original.safetensors", "progress.safetensors"} <= kept
    assert not {"report.json", "artifact.safetensors"} & kept


class Draw(Transform):
    """Draws a random number and keeps count each time it is used, in eval mode too."""

    key = "test-draw"
    rank = QUANTIZE

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(1))

    def forward(self, value: Tensor) -> Tensor:
        self.get_buffer("count").add_(1)
        return value + 0 * torch.rand(1)


def test_a_look_leaves_generators_modes_and_statistics_alone(tmp_path: Path) -> None:
    """In the second stage the transform is there at both looks: as the stage starts, and when it ends."""
    seen: dict[str, list[Tensor]] = {}

    def state(stage: Stage) -> list[Tensor]:
        net = stage.student.module
        modes = torch.tensor([module.training for module in net.modules()])
        return [torch.get_rng_state(), modes, *(buffer.clone() for buffer in net.buffers())]

    class Draws(Act):
        @hookimpl
        def players(self, stage: Stage) -> None:
            seen["started"] = state(stage)

        @hookimpl
        def prepare(self, stage: Stage) -> None:
            if stage.name == "first":
                stage.attach("conv1:output", "draw", Draw())

        @hookimpl
        def report(self, stage: Stage) -> None:
            seen["before it ended"] = state(stage)

    class After(Observer):
        def stage_ended(self, stage: Stage) -> None:
            seen["ended"] = state(stage)
            counts.append(float(stage.student.module.get_buffer("conv1.condensery_output.transforms.draw.count")))

    counts: list[float] = []
    stages = [{"name": "first", "methods": ["draws"]}, {"name": "second", "methods": ["draws"]}]
    found = Registry.open([("given", offering(methods={"draws": Draws}, layers={"test-draw": Draw}))])
    Run(recipe(stages), found, out=tmp_path / "o", observer=After()).execute()

    assert 0 < counts[0] < counts[1]  # else no use would be noticed
    torch.manual_seed(derive_seed("stage", 0, "1", "second"))
    assert torch.equal(seen["started"][0], torch.get_rng_state())
    assert [torch.equal(a, b) for a, b in zip(seen["before it ended"], seen["ended"], strict=True)].count(False) == 0
