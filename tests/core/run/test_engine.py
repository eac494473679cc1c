from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.core.helpers import Act, Watch, recipe, registry
from torch import nn

from condensery import Run, UsageError
from condensery.nets import same_numbers
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
