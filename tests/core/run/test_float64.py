"""Nets of float64: a recipe may ask for one, and a builder may make one. They run, are stored, and load bit-equal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.core.helpers import Watch, offering, recipe
from torch import nn

from condensery import NotApplicable, Registry, Run, load
from condensery.errors import UsageError
from condensery.recipe import parse


class Doubles(nn.Sequential):
    """A net that its builder makes in float64."""

    def __init__(self, facts: Any, name: str) -> None:
        norm, out = nn.BatchNorm1d(12), nn.Linear(12, facts.outputs)
        super().__init__(nn.Flatten(), nn.Linear(64, 12), norm, nn.ReLU(), out)
        self.double()


REGISTRY = Registry.open([("given", offering(models={"test-doubles": Doubles}))])
ASKED = {"key": "resnet8", "width": 0.5, "dtype": "float64"}


@pytest.mark.parametrize(
    ("line", "model"),
    [
        ("magnitude(sparsity=0.5)", "test-doubles"),
        ("magnitude(sparsity=0.5) -> hinton-kd{teacher=original}", ASKED),
        ("hinton-kd{teacher=resnet8}", ASKED),
        ("lsq -> l1-filter-pruning(ratio=0.3)", ASKED),
        ("magnitude -> kmeans-sharing -> huffman", ASKED),
        ("group-brain-damage", ASKED),
    ],
)
def test_a_net_of_float64_runs_and_loads_bit_equal(line: str, model: Any, tmp_path: Path) -> None:
    job = Run(recipe(parse(line), model=model), REGISTRY, out=tmp_path / "out", device="cpu")
    report = job.execute()
    assert job.baked is not None
    here, there = job.baked.net.eval(), load(tmp_path / "out/artifact.safetensors", REGISTRY)

    x = torch.rand(5, 1, 8, 8)
    expected = here(x)
    assert expected.dtype is torch.float64
    assert len(expected.detach().unique()) > 10
    assert torch.equal(there(x), expected)
    assert there.state_dict().keys() == here.state_dict().keys()
    assert all(torch.equal(value, here.state_dict()[name]) for name, value in there.state_dict().items())
    assert report["recipe"]["model"] == ({"key": model} if isinstance(model, str) else model)


def test_a_run_of_float64_goes_on_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    def play(name: str, **changes: Any) -> bytes:
        given = recipe(parse("lsq -> group-brain-damage"), model=ASKED)
        Run(given, REGISTRY, out=tmp_path / name, device="cpu", **changes).execute()
        return (tmp_path / name / "artifact.safetensors").read_bytes()

    whole = play("whole")
    with pytest.raises(KeyboardInterrupt):
        play("stopped", observer=Watch(stop_after=1, where=lambda stage: stage.name == "group-brain-damage"))
    assert play("stopped", resume=True) == whole


def test_what_computes_in_float32_alone_says_so(tmp_path: Path) -> None:
    given = recipe(parse("jacob-integer-only"), model=ASKED)
    with pytest.raises(NotApplicable, match=r"it computes in float32, and 'conv1' is torch\.float64"):
        Run(given, REGISTRY, out=tmp_path / "out", device="cpu").execute()


def test_another_type_is_one_line() -> None:
    with pytest.raises(UsageError, match=r"model\.dtype: .*'float32' or 'float64'"):
        recipe([], model={"key": "resnet8", "dtype": "float16"})
