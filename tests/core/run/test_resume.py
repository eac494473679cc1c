"""What a run that goes on has from the one that was killed: state of methods, settings of transforms, generators."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.core.company.runs import run, run_also_killed
from tests.core.helpers import Act, Sign, offering, recipe, registry
from torch import Tensor, nn

from condensery import Registry, Run, hookimpl
from condensery.errors import ArtifactError, PluginError
from condensery.nets import attached
from condensery.run import Player, Stage
from condensery.run.folder import RunFolder
from condensery.storage import CHECKPOINT_FORMAT, as_saved

STATE: dict[str, Any] = {
    "one": {("student", 0): torch.ones(2), 3: "three", None: [(1, 2.5), {"a": True}]},
    "two": [(), [()], {}, "$tuple"],
}


def test_a_tree_comes_back_with_all_its_keys_and_tuples() -> None:
    found = as_saved(STATE)
    assert list(found["one"]) == list(STATE["one"])
    assert torch.equal(found["one"].pop(("student", 0)), torch.ones(2))
    assert found == {"one": {3: "three", None: [(1, 2.5), {"a": True}]}, "two": STATE["two"]}


def test_state_with_tuples_for_keys_is_not_lost(tmp_path: Path) -> None:
    """Here it changes the steps, so that a run which lost it would end elsewhere."""
    seen: list[Any] = []

    class Keeps(Act):
        @hookimpl
        def prepare(self, stage: Stage) -> None:
            self.steps_: dict[tuple[str, int], Tensor] = {}
            self.last_: tuple[str, int] | None = None

        @hookimpl
        def after_backward(self, stage: Stage, player: Player) -> None:
            self.last_ = (player.name, stage.step)
            self.steps_[self.last_] = torch.full((), 1.0 + len(self.steps_))
            for weight in stage.weights():
                assert weight.latent.grad is not None
                weight.latent.grad.mul_(self.steps_[self.last_])

        @hookimpl
        def end_stage(self) -> None:
            seen.append((list(self.steps_), self.last_))

    run_also_killed(recipe([{"methods": ["keeps"], "epochs": 2}]), registry(keeps=Keeps), tmp_path)
    assert seen[1] == seen[-1] == ([("student", step) for step in range(4)], ("student", 3))


@pytest.mark.parametrize(
    ("value", "holds"),
    [
        ({1, 2}, "a set, which can't be saved: keep tensors without gradient, numbers"),
        ({"net": [nn.ReLU()]}, "a ReLU: one that trains beside a net is a helper"),
        ({("a", b"b"): 1}, "a bytes"),
        (torch.ones(1, requires_grad=True), "a tensor with a gradient"),
        (np.zeros(2), "a ndarray"),
        (torch.Generator(), "a Generator"),
    ],
)
def test_what_can_not_be_saved_is_refused_before_anything_trains(value: Any, holds: str, tmp_path: Path) -> None:
    class Keeps(Act):
        @hookimpl
        def after_epoch(self) -> None:
            self.kept_ = value

    with pytest.raises(PluginError, match=f"stage 's', keeps: kept_ holds {holds}"):
        run(recipe([{"name": "s", "methods": ["keeps"]}]), registry(keeps=Keeps), tmp_path / "o")
    assert not (tmp_path / "o").exists()


def test_a_method_may_say_itself_what_is_saved(tmp_path: Path) -> None:
    class Keeps(Act):
        @hookimpl
        def prepare(self, stage: Stage) -> None:
            self.drawn_ = torch.Generator().manual_seed(stage.seed)

        @hookimpl
        def before_step(self, stage: Stage) -> None:
            for group in stage.student.optimizer.param_groups:  # type: ignore[union-attr]
                group["lr"] *= float(torch.rand((), generator=self.drawn_))

        def state(self) -> dict[str, Tensor]:
            return {"drawn": self.drawn_.get_state()}

        def load_state(self, state: dict[str, Tensor]) -> None:
            self.drawn_.set_state(state["drawn"])

    run_also_killed(recipe([{"methods": ["keeps"], "epochs": 2}]), registry(keeps=Keeps), tmp_path)


HELD = {
    "original.safetensors": {"net", "stages"},
    "net.safetensors": {"spec", "tensors", "structure", "transforms", "optimizer", "run"},
    "progress.safetensors": {
        *("unit", "snapshots", "epoch", "step", "players", "methods", "exchanged", "rng", "history"),
    },
}
"""What the files of a running run hold in format 4."""


def test_what_is_saved_has_the_number_of_its_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that an earlier version began is refused by that number, so a field more or less is another format."""
    held: dict[str, set[str]] = {}
    save = RunFolder.save

    def note(folder: RunFolder, name: str, tree: Any) -> None:
        held[name] = set(tree)
        save(folder, name, tree)

    monkeypatch.setattr(RunFolder, "save", note)
    run(recipe([{"epochs": 1}]), registry(), tmp_path)
    assert (CHECKPOINT_FORMAT, held) == (4, HELD), "write the new fields down here, and raise CHECKPOINT_FORMAT"


def test_all_generators_are_seeded_saved_and_left_alone_by_a_dry_run(tmp_path: Path) -> None:
    """Each step is made longer by what each generator draws."""
    drawn: list[tuple[float, float, float]] = []

    class Draws(Act):
        @hookimpl
        def before_step(self, stage: Stage) -> None:
            three = random.random(), float(np.random.rand()), float(torch.rand(()))
            if not stage.dry:
                drawn.append(three)
            for group in stage.student.optimizer.param_groups:  # type: ignore[union-attr]
                group["lr"] *= sum(three)

    what = recipe([{"methods": ["draws"], "epochs": 2}])
    run_also_killed(what, registry(draws=Draws), tmp_path)
    assert len(drawn) == 8
    assert drawn[:4] == drawn[4:]
    assert len(set(drawn)) == 4

    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # type: ignore[index]
    run_dry = recipe([{"methods": ["draws"]}], seed=1)
    Run(run_dry, registry(draws=Draws), out=tmp_path / "dry").check()
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # type: ignore[index]
    assert before == after


class Scaled(Sign):
    """A quantizer with a parameter whose settings are given to the instance, not to the class."""

    key = "scaled"

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, value: Tensor) -> Tensor:
        return value * self.scale

    def holds(self, final: Tensor) -> None:
        return None


def test_settings_of_an_instance_are_kept_when_a_net_is_described(tmp_path: Path) -> None:
    """In the second stage, after the first was saved and the run was killed: the scale learns as slowly as it did."""

    class Attaches(Act):
        @hookimpl
        def prepare(self, stage: Stage) -> None:
            own = Scaled()
            own.settings = {"lr_scale": 0.1, "weight_decay": 0.5}
            stage.attach("conv1.weight", "scaled", own)

    known = Registry.open([("given", offering(methods={"attaches": Attaches}, layers={"scaled": Scaled}))])
    what = recipe([{"methods": ["attaches"], "epochs": 1}, {"name": "then", "epochs": 2}])
    _, watch = run_also_killed(what, known, tmp_path, where=lambda stage: stage.name == "then")
    (item,) = attached(watch.student)
    assert item.transform.settings == {"lr_scale": 0.1, "weight_decay": 0.5}
    assert dict(item.transform.named_parameters())["scale"].detach() != 1.0


def test_a_run_whose_artifact_is_lost_or_damaged_has_not_just_ended(tmp_path: Path) -> None:
    asked, out = recipe([{"epochs": 0}]), tmp_path / "o"
    report = Run(asked, registry(), out=out).execute()
    assert Run(asked, registry(), out=out, resume=True).execute() == report

    artifact = out / report["artifact"]
    artifact.write_bytes(artifact.read_bytes()[:-1000])
    with pytest.raises(ArtifactError, match=r"artifact.safetensors: not an artifact, or damaged"):
        Run(asked, registry(), out=out, resume=True).execute()
    artifact.unlink()
    with pytest.raises(ArtifactError, match=r"no such file: .*artifact.safetensors"):
        Run(asked, registry(), out=out, resume=True).execute()
