from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.core.helpers import Act, Sign, recipe, registry
from torch import nn

from condensery import Run, hookimpl
from condensery.nets import BATCH_NORMS, Weight, attach, weights_of
from condensery.run import Stage
from condensery_plugins.pruning.masks import Mask


def test_a_write_cannot_get_lost(tmp_path: Path) -> None:
    """``latent`` is the trained Parameter under any transform; a write to it shows in ``value``."""

    def write(stage: Stage) -> None:
        weight = stage.weights()[1]
        assert isinstance(weight.latent, nn.Parameter)
        if weight.stack is None:
            stage.attach(weight.name, "sign", Sign())
        weight = stage.weights()[1]
        with torch.no_grad():
            weight.latent[0].zero_()
        assert torch.equal(weight.value[0], torch.zeros_like(weight.value[0]))
        assert weight.value[1:].abs().min() > 0

    class Writes(Act):
        def __post_init__(self) -> None:
            self.prepare_ = write

    Run(recipe(["writes"]), registry(writes=Writes), out=tmp_path / "o").execute()


def test_plugins_never_touch_module_weight() -> None:
    """Under a transform ``module.weight`` is a temporary: writes vanish and criteria see quantized values."""
    root = Path(__file__).parents[3] / "plugins" / "condensery_plugins"
    guilty = []
    for family in ("pruning", "quantization", "distillation", "joint"):
        for path in (root / family).glob("*.py"):
            for number, line in enumerate(path.read_text().splitlines(), 1):
                touched = re.search(r"(?<!self)\.weight([.\[)]|\s*$)", line)
                if touched:
                    guilty.append(f"{path.name}:{number}: {line.strip()}")
    assert not guilty


def test_the_net_is_walked_once_and_again_after_an_attach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from condensery.run import stage as module

    walks: list[tuple[int, str]] = []
    lists: list[list[Weight]] = []

    class Walks(Act):
        @hookimpl
        def after_backward(self, stage: Stage) -> None:
            lists.append(stage.weights(kinds=BATCH_NORMS))
            walks.append((stage.step, "step"))

        @hookimpl
        def end_stage(self, stage: Stage) -> None:
            stage.attach(lists[-1][0].name, "mask", Mask(lists[-1][0].latent.shape))
            for _ in range(2):
                lists.append(stage.weights(kinds=BATCH_NORMS))
                walks.append((stage.step, "end"))

    def counted(*arguments: Any) -> list[Weight]:
        walks.append((-1, "walk"))
        return weights_of(*arguments)

    monkeypatch.setattr(module, "weights_of", counted)
    job = Run(recipe([{"methods": ["walks"], "epochs": 1}]), registry(walks=Walks), out=tmp_path / "o")
    job.check()
    walks.clear()
    lists.clear()
    job.execute()
    assert [w for w, _ in walks] == [-1, 0, 1, -1, 2, 2]
    first, second, third, last = lists
    assert first == second  # Weights are compared by identity
    assert first is not second  # what a method does to its list stays with it
    assert third == last
    assert not set(first) & set(third)
    assert "mask" in third[0].stack.transforms  # type: ignore[union-attr]


def test_a_weight_follows_its_parameter() -> None:
    net = nn.Sequential(nn.Linear(3, 2))
    (weight,) = weights_of(net, (nn.Linear,), "weight")
    assert (weight.path, weight.name) == ("0", "0.weight")
    assert weight.latent is net[0].weight
    cut = nn.Parameter(torch.ones(2, 2))
    net[0].weight = cut
    assert weight.latent is cut
    attach(net, "0.weight", "sign", Sign())
    assert isinstance(weight.latent, nn.Parameter)
    with torch.no_grad():
        weight.latent.fill_(-3.0)
    assert weight.value.tolist() == [[-0.5, -0.5], [-0.5, -0.5]]


def test_tied_and_absent_tensors() -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3, bias=False), nn.BatchNorm1d(3, affine=False))
    net[1].weight = net[0].weight
    assert [w.name for w in weights_of(net, (nn.Linear,), "weight")] == ["0.weight"]
    assert [w.name for w in weights_of(net, (nn.Linear,), "bias")] == ["0.bias"]
    assert weights_of(net, BATCH_NORMS, "weight") == []
    assert [w.name for w in weights_of(nn.Linear(2, 2), (nn.Linear,), "bias")] == ["bias"]
