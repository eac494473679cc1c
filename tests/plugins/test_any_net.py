"""Nets as people bring them: each is compressed right, or refused in one line that says why."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.core.helpers import offering
from torch import Tensor, nn

import condensery
from condensery import Registry, Run
from condensery.recipe import parse_recipe
from condensery.recipe.spelling import parse

torch.set_num_threads(1)
GPT2 = {"key": "hf/gpt2", "n_layer": 1, "n_embd": 24, "n_head": 3}
Build = Callable[..., nn.Module]


class Squeezed:
    """A short run of a composition on a net of one's own.

    :param make: builds the net from the task's facts; ``None`` where ``model`` is a spec of a known one.
    """

    def __init__(
        self, line: str, make: Build | None, folder: Path, *, model: Any = "mine", task: str = "digits"
    ) -> None:
        offers = {} if make is None else {"mine": lambda facts, name: make(facts)}
        self.registry = Registry.open([("given", offering(models=offers))])
        train = {"epochs": 1, "max_steps": 3, "batch_size": 32, "optimizer": {"lr": 0.05}}
        data = {"model": model, "task": task, "base": "none", "train": train, "stages": parse(line)}
        self.run = Run(parse_recipe(data), self.registry, out=folder, device="cpu")
        self.report = self.run.execute()
        self.net = condensery.load(folder / "artifact.safetensors", self.registry)

    def stage(self, number: int = -1) -> Mapping[str, Any]:
        """Return what a stage came to."""
        found: Mapping[str, Any] = self.report["stages"][number]
        return found

    def outputs_are_kept(self) -> bool:
        """Tell whether the loaded net gives the baked net's outputs, bit for bit; these differ between examples."""
        assert self.run.baked is not None
        inputs = self.run.task.example_input(4)
        with torch.no_grad():
            want, got = (self.run.task.logits(net, inputs) for net in (self.run.baked.net, self.net))
        assert bool(want.isfinite().all())
        assert bool((want != want[0]).any())
        return torch.equal(want, got)


def zeros(net: nn.Module) -> float:
    """Return the share of zeros among a net's parameters."""
    return sum(int((p == 0).sum()) for p in net.parameters()) / sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize("line", ["magnitude(sparsity=0.9)", "gradual-magnitude-pruning(sparsity=0.9, skip=[])"])
def test_the_matrices_of_gpt2_are_pruned(line: str, tmp_path: Path) -> None:
    done = Squeezed(line, None, tmp_path / "o", model=GPT2, task="word-language")
    found = {key.rpartition(".")[2]: value for key, value in done.stage()["report"].items()}
    layer = dict(done.net.named_parameters())
    matrices = [
        p for n, p in layer.items() if n.endswith("weight") and p.dim() > 1 and ".wte" not in n and ".wpe" not in n
    ]
    assert len(matrices) == 5  # four Conv1D and the head
    gone, total = sum(int((p == 0).sum()) for p in matrices), sum(p.numel() for p in matrices)
    assert gone == pytest.approx(0.9 * total, abs=3)

    whole = sum(p.numel() for p in done.net.parameters())
    assert found["sparsity_percent"] == pytest.approx(90.0, abs=0.1)
    assert found["reached_percent"] == pytest.approx(100 * total / whole)
    assert found["net_sparsity_percent"] == pytest.approx(100 * gone / whole)
    assert {n.rpartition(".")[0].rpartition(".")[2] for n in done.stage()["missed"]} == {"wte", "wpe"}
    assert done.outputs_are_kept()


def test_the_matrices_of_gpt2_are_quantized(tmp_path: Path) -> None:
    done = Squeezed("lsq(weight_bits=2, edge_bits=2)", None, tmp_path / "o", model=GPT2, task="word-language")
    matrices = [p for n, p in done.net.named_parameters() if n.endswith("c_fc.weight")]
    assert [len(p.unique()) for p in matrices] == [4]  # type: ignore[no-untyped-call]
    assert done.outputs_are_kept()


def test_what_stays_float_is_counted_and_named(tmp_path: Path) -> None:
    """Integer layers are made of plain convolutions and linear layers alone, and GPT-2 has one: its head."""
    done = Squeezed("jacob-integer-only", None, tmp_path / "o", model=GPT2, task="word-language")
    found = done.stage()["report"]
    assert found["jacob-integer-only.integer_layers_count"] == 1
    assert found["jacob-integer-only.float_layers_count"] == 4
    assert found["jacob-integer-only.reached_percent"] < 5
    assert sum(n.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight")) for n in done.stage()["missed"]) == 4


class Lines(nn.Module):
    """Convolutions, then an LSTM over the columns."""

    def __init__(self, facts: Any) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(facts.channels, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU()),
            *(nn.Conv2d(12, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
        )
        self.lstm, self.head = nn.LSTM(16, 24, batch_first=True), nn.Linear(24, facts.outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(self.body(x).mean(2).transpose(1, 2))[0][:, -1])  # type: ignore[no-any-return]


@pytest.mark.parametrize("line", ["l1-filter-pruning(ratio=0.5)", "network-slimming(ratio=0.4)", "thinet"])
def test_convolutions_before_an_lstm_are_cut(line: str, tmp_path: Path) -> None:
    done = Squeezed(line, Lines, tmp_path / "o")
    first, second = (done.net.get_submodule(f"body.{i}").get_parameter("weight") for i in (0, 3))
    assert first.shape[0] < 12
    assert first.shape[0] == second.shape[1]
    assert second.shape[0] == 16  # the LSTM reads its channels, and can't be cut
    assert done.outputs_are_kept()


@pytest.mark.parametrize("act", [nn.PReLU, lambda: nn.PReLU(16)])
def test_channels_go_behind_a_prelu_as_behind_a_relu(act: Any, tmp_path: Path) -> None:
    def make(between: Any, facts: Any) -> nn.Module:
        return nn.Sequential(
            *(nn.Conv2d(facts.channels, 16, 3, padding=1), nn.BatchNorm2d(16), between()),
            *(nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), between()),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, facts.outputs)),
        )

    for number, line in enumerate(("l1-filter-pruning(ratio=0.5)", "network-slimming(ratio=0.4)")):
        plain, steep = (Squeezed(line, partial(make, a), tmp_path / f"{number}{a}") for a in (nn.ReLU, act))
        shapes = [[tuple(p.shape) for p in done.net.parameters() if p.dim() > 1] for done in (plain, steep)]
        assert shapes[0][0][0] < 16
        if number == 0:  # what slimming takes depends on how the scales have moved
            assert shapes[0] == shapes[1]
        assert steep.outputs_are_kept()
