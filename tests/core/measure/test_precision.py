from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.core.helpers import recipe, registry
from torch import nn

from condensery import Run
from condensery.measure import Precision, precision
from condensery.run import Progress

CPU = torch.device("cpu")


def has_bf16(monkeypatch: pytest.MonkeyPatch, there: bool) -> None:
    """Let the processor have instructions for bf16, or not."""
    monkeypatch.setattr(precision, "computes_bf16", lambda kind: there)


def test_bf16_is_only_where_there_are_instructions_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    half = Precision("bf16", channels_last=True)
    has_bf16(monkeypatch, True)
    assert half.on(CPU) == half
    has_bf16(monkeypatch, False)
    assert half.on(CPU) == Precision("none", channels_last=True)
    assert Precision("none").on(CPU) == Precision("none")


def test_what_is_asked_of_the_processor() -> None:
    flags = Path("/proc/cpuinfo")
    if flags.is_file() and "avx2" in flags.read_text() and "avx512bw" not in flags.read_text():
        assert not precision.computes_bf16("cpu")
    assert precision.computes_bf16("cpu") in (True, False)
    assert not precision.computes_bf16("mps")


def test_products_are_in_bf16_only_in_between() -> None:
    layer, x = nn.Linear(3, 2), torch.ones(1, 3)
    with Precision("bf16").applied(CPU):
        assert layer(x).dtype == torch.bfloat16
    with Precision("none").applied(CPU):
        assert layer(x).dtype == torch.float32
    assert layer(x).dtype == torch.float32


class Lines(Progress):
    """Keeps what is said."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def line(self, text: str) -> None:
        self.lines.append(text)


def run(out: Path, autocast: str) -> tuple[dict[str, Any], list[str]]:
    show = Lines()
    what = recipe([{"name": "one"}, {"name": "two"}])
    what = what.model_copy(update={"train": copy.deepcopy(what.train) | {"autocast": autocast}})
    return Run(what, registry(), out=out, device="cpu", show=show).execute(), show.lines


def test_a_run_without_the_instructions_is_the_one_in_float32_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    has_bf16(monkeypatch, False)
    plain, _ = run(tmp_path / "plain", "none")
    asked, lines = run(tmp_path / "asked", "bf16")
    assert asked["evaluation"] == plain["evaluation"] == {"autocast": "none", "channels_last": False}
    assert asked["after"]["quality"] == plain["after"]["quality"]
    assert asked["training"] == plain["training"]
    assert [line for line in lines if "bf16" in line] == ["cpu has no instructions for bf16: products are in float32"]


def test_a_run_with_the_instructions_uses_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    has_bf16(monkeypatch, True)
    plain, _ = run(tmp_path / "plain", "none")
    asked, lines = run(tmp_path / "asked", "bf16")
    assert asked["evaluation"]["autocast"] == "bf16"
    assert asked["training"]["loss"] != plain["training"]["loss"]
    assert not [line for line in lines if "bf16" in line]
