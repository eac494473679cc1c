"""One run in two processes comes to what one process would."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.core.helpers import Act, recipe, registry
from tests.core.together import together
from torch import Tensor

from condensery import Method, Run, Stage, hookimpl, load
from condensery.files import read_json
from condensery.recipe import parse
from condensery.run import Player

TRAIN = {"epochs": 2, "batch_size": 16, "optimizer": {"lr": 0.05, "options": {"momentum": 0.9}}}


def played(
    what: Any, out: Path, *, processes: int = 1, **methods: type[Method]
) -> tuple[Mapping[str, Any], Mapping[str, Tensor]]:
    """Return the report and the artifact's weights of a run."""

    def play() -> None:
        Run(what, registry(**methods), out=out, device="cpu").execute()

    together(play, processes) if processes > 1 else play()
    return read_json(out / "report.json", ""), load(out / "artifact.safetensors").state_dict()


def codes_of(weight: Tensor) -> Tensor | None:
    """Return which level each weight has, where there are few."""
    levels, codes = torch.unique(weight, return_inverse=True)
    return codes if weight.dim() > 1 and len(levels) < 16 else None


@pytest.mark.parametrize("line", ["magnitude(sparsity=0.6)", "network-slimming", "lsq", "hinton-kd{teacher=original}"])
def test_two_processes_come_to_what_one_does(line: str, tmp_path: Path) -> None:
    """The batch is shared, and batch normalization sees it as a whole: the same codes and masks, and near weights."""
    what = recipe(parse(line), train=TRAIN)
    one, alone = played(what, tmp_path / "one")
    two, shared = played(what, tmp_path / "two", processes=2)

    assert two["processes"] == 2
    assert one["after"]["nonzeros"] == two["after"]["nonzeros"] > 1000
    assert alone.keys() == shared.keys()
    for name, value in alone.items():
        torch.testing.assert_close(value, shared[name], atol=1e-5, rtol=1e-4)
        assert torch.equal(value == 0, shared[name] == 0), name

    coded = {name: codes for name, value in alone.items() if (codes := codes_of(value)) is not None}
    assert bool(coded) == (line == "lsq")
    for name, codes in coded.items():
        others = codes_of(shared[name])
        assert others is not None, name
        assert torch.equal(codes, others), name

    first, second = (report["stages"][0]["history"][-1]["terms"] for report in (one, two))
    assert first == pytest.approx(second, abs=1e-4)


def test_statistics_are_those_of_all_shares(tmp_path: Path) -> None:
    """What a tap measures is the mean over the whole batch in each process."""

    class Looks(Act):
        @hookimpl
        def prepare(self, stage: Stage) -> None:
            stage.student.tap("fc1", lambda value: value.abs().mean())

        @hookimpl
        def after_step(self, stage: Stage, player: Player) -> None:
            self.seen_ = float(player.measured["fc1"])

        @hookimpl
        def report(self, stage: Stage) -> dict[str, float]:
            return {"seen": self.seen_}

    what = recipe([{"methods": ["looks"]}], model={"key": "mlp", "hidden": [16]})
    reports = [played(what, tmp_path / str(n), processes=n, looks=Looks)[0] for n in (1, 2)]
    one, two = (report["stages"][0]["report"]["looks.seen"] for report in reports)
    assert one == pytest.approx(two, abs=1e-5)
    assert one > 0.01
