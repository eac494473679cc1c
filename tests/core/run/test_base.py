"""What is trained before a recipe's first stage, and which runs share it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tests.core.helpers import recipe, registry

from condensery import Run
from condensery.measure import digest, evaluate
from condensery.nets import build_net
from condensery.recipe import ModelSpec
from condensery_plugins.tasks.digits import Digits

BASE = {"epochs": 1, "batch_size": 16, "max_steps": 2, "optimizer": {"lr": 0.1}}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CONDENSERY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "nets"


def start(path: Path, seed: int, base: dict[str, Any], **model: Any) -> Run:
    """Run a recipe without stages; its net is the base."""
    spec = {"key": "resnet8", "width": 0.5, **model}
    job = Run(recipe([], model=spec, base=base, seed=seed), registry(), out=path)
    job.execute()
    return job


def weights(job: Run) -> torch.Tensor:
    assert job.baked is not None
    return torch.cat([p.detach().flatten() for p in job.baked.net.parameters()])


def test_runs_of_other_seeds_share_a_base_with_a_seed_of_its_own(tmp_path: Path, cache: Path) -> None:
    first, second = (start(tmp_path / str(s), s, {**BASE, "seed": 5}) for s in (0, 1))
    assert torch.equal(weights(first), weights(second))
    assert "cached" not in first.stages[0]
    assert second.stages[0]["cached"]
    third = start(tmp_path / "5", 5, BASE)  # the same net: the seed is the run's own
    assert torch.equal(weights(third), weights(first))
    assert third.stages[0]["cached"]
    assert len(list(cache.glob("*.safetensors"))) == 1


def test_without_one_each_seed_has_its_own(tmp_path: Path, cache: Path) -> None:
    first, second = (start(tmp_path / str(s), s, BASE) for s in (0, 1))
    assert not torch.equal(weights(first), weights(second))
    assert len(list(cache.glob("*.safetensors"))) == 2


def test_the_quality_of_a_shared_base_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.nn.Module] = []

    def count(task: Any, net: torch.nn.Module, device: torch.device) -> dict[str, float]:
        seen.append(net)
        return evaluate(task, net, device)

    monkeypatch.setattr("condensery.measure.known.evaluate", count)
    jobs = [start(tmp_path / str(s), s, {**BASE, "seed": 5}) for s in (0, 1)]
    assert len(seen) == 1
    reports = [json.loads((job.folder.path / "report.json").read_text()) for job in jobs]
    assert reports[0]["before"]["quality"] == reports[1]["before"]["quality"] == reports[0]["after"]["quality"]
    start(tmp_path / "other", 0, {**BASE, "seed": 6})
    assert len(seen) == 2


def test_another_value_is_another_net() -> None:
    net = torch.nn.Linear(2, 2)
    first = digest(net)
    assert digest(net) == first
    with torch.no_grad():
        net.weight[0, 0] += 1.0
    assert digest(net) != first


def test_given_weights_are_trained_on_only_where_the_recipe_says_how(tmp_path: Path) -> None:
    net = build_net(ModelSpec(key="resnet8", width=0.5), Digits().facts, registry(), 7)
    save_file(net.state_dict(), tmp_path / "net.safetensors")
    given = torch.cat([p.detach().flatten() for p in net.parameters()])
    place = str(tmp_path / "net.safetensors")
    assert torch.equal(weights(start(tmp_path / "as-is", 0, {}, weights=place)), given)
    trained = start(tmp_path / "on", 0, {**BASE, "optimizer": {"lr": 1e-6}}, weights=place)
    assert trained.stages[0]["name"] == "base"
    assert not torch.equal(weights(trained), given)
    torch.testing.assert_close(weights(trained), given, atol=1e-3, rtol=0)
