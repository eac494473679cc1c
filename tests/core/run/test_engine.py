from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.core.company.runs import run_also_killed
from tests.core.helpers import Act, Watch, offering, recipe, registry
from torch import Tensor, nn

from condensery import Registry, Run, Stage, UsageError, hookimpl
from condensery.errors import CondenseryError
from condensery.nets import Layer, same_numbers
from condensery.recipe import ModelSpec


def test_the_dry_run_finds_a_fault_of_a_late_stage(tmp_path: Path) -> None:
    class Taps3(Act):
        def __post_init__(self) -> None:
            self.prepare_ = lambda stage: stage.student.tap("nolayer")

    state = torch.get_rng_state()
    with pytest.raises(UsageError, match="unknown module or role 'nolayer'"):
        Run(recipe(["magnitude", "magnitude", "taps3"]), registry(taps3=Taps3), out=tmp_path / "o").execute()
    assert torch.equal(torch.get_rng_state(), state)
    assert not (tmp_path / "o").exists()


def test_the_default_step_equals_a_loop_by_hand(tmp_path: Path) -> None:
    from condensery.nets import build_net
    from condensery.recipe import derive_seed

    what = recipe([{"name": "s", "epochs": 2}])
    found = registry()
    watch = Watch()
    job = Run(what, found, out=tmp_path / "o", observer=watch)
    job.execute()

    net = build_net(ModelSpec(key="resnet8", width=0.5), job.task.facts, found, 0)
    torch.manual_seed(derive_seed("stage", 0, "0", "s"))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    from condensery.tasks import Subset

    for epoch in range(2):
        net.train()
        for batch in job.task.batches("train", batch_size=16, seed=epoch, subset=Subset(size=32), train=True):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(batch.inputs), batch.labels).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    assert same_numbers(net, watch.student)


class Scales(Layer):
    """A registered layer that multiplies; its subclasses describe themselves wrongly."""

    key = "scales"

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor

    def config(self) -> dict[str, Any]:
        return {}


class Needs(Scales):
    """One that can't be built from its config."""

    key = "needs"

    def __init__(self, factor: float) -> None:
        super().__init__(factor)


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        (Scales, "what this recipe leaves gives other outputs when it is saved and loaded"),
        (Needs, r"layer 'needs': .*missing 1 required positional argument: 'factor'"),
    ],
)
def test_what_an_artifact_can_not_hold_is_found_before_anything_trains(
    kind: type[Scales], says: str, tmp_path: Path
) -> None:
    class Puts(Act):
        @hookimpl
        def end_stage(self, stage: Stage) -> None:
            stage.replace("bn1", kind(3.0))

    known = Registry.open([("given", offering(methods={"puts": Puts}, layers={kind.key: kind}))])
    with pytest.raises(CondenseryError, match=says):
        Run(recipe(["puts"]), known, out=tmp_path / "o").execute()
    assert not (tmp_path / "o").exists()


def test_channels_last_is_for_a_stage(tmp_path: Path) -> None:
    """The next stage computes as it would after a resume, which reads its net from a file."""
    stages = [{"name": "first", "train": {"channels_last": True}}, {"name": "then", "epochs": 2}]
    run_also_killed(recipe(stages), registry(), tmp_path, where=lambda stage: stage.name == "then")
