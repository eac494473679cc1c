"""What hooks return is looked at where it enters; the commonest mistakes are in ``run/test_authors_mistakes.py``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.core.company.runs import run
from tests.core.helpers import Act, recipe, registry
from torch import nn

from condensery import Transform, hookimpl
from condensery.errors import MethodError, PluginError
from condensery.run import Stage


@pytest.mark.parametrize(
    ("hook", "answer", "says"),
    [
        ("batches", 3, "batches: must return batches, got int 3"),
        (
            "exchange",
            torch.zeros(3),
            r"exchange: must return \d+ numbers for conv1.weight, got a tensor of shape \(3,\)",
        ),
        ("players", [nn.Linear(1, 1)], "players: must return a list of players, each made by stage.recruit"),
        ("players", nn.Linear(1, 1), "players: must return a list of players"),
        ("report", 3, "report: must return a mapping of keys to numbers, got int 3"),
    ],
)
def test_a_wrong_answer_is_one_line(hook: str, answer: Any, says: str, tmp_path: Path) -> None:
    def given(self: Act, stage: Stage) -> Any:
        return answer

    wrong = type("Wrong", (Act,), {hook: hookimpl(given), "__annotations__": {}})
    with pytest.raises(PluginError, match=f"^stage 's', wrong, {says}") as caught:
        run(recipe([{"name": "s", "methods": ["wrong"]}]), registry(wrong=wrong), tmp_path / "o")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("answer", [None, {}, {"zero": torch.zeros(())}])
def test_terms_that_are_nothing_are_fine(answer: Any, tmp_path: Path) -> None:
    class Says(Act):
        @hookimpl
        def loss_terms(self) -> Any:
            return answer

        @hookimpl
        def optimizer(self) -> None:
            """Leave it to core, as all that follows."""

        @hookimpl
        def batches(self) -> None:
            pass

        @hookimpl
        def exchange(self) -> None:
            pass

    report, _ = run(recipe(["says"]), registry(says=Says), tmp_path / "o")
    assert report["stages"][0]["history"][0]["terms"]["student.task"] > 0


def test_a_transform_that_nobody_registers_is_refused_before_anything_trains(tmp_path: Path) -> None:
    class Unknown(Transform):
        key = "unknown"

        def forward(self, value: torch.Tensor) -> torch.Tensor:
            return value

    class Attaches(Act):
        @hookimpl
        def end_stage(self, stage: Stage) -> None:
            stage.attach("conv1.weight", "unknown", Unknown())

    with pytest.raises(PluginError, match=r"transform Unknown at conv1\.weight isn't in register_layers"):
        run(recipe(["attaches", "magnitude"]), registry(attaches=Attaches), tmp_path / "o")
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("change", ["attach", "replace"])
def test_what_an_optimizer_should_have_is_not_attached_while_it_steps(change: str, tmp_path: Path) -> None:
    class Learned(Transform):
        key = "test-sign"

        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, value: torch.Tensor) -> torch.Tensor:
            return value * self.scale

    class Changes(Act):
        @hookimpl
        def before_step(self, stage: Stage) -> None:
            if change == "attach":
                stage.attach("conv1.weight", "learned", Learned())
            else:
                stage.replace("bn1", nn.Identity())

    with pytest.raises(
        MethodError,
        match=r"stage 's', changes, before_step: a .* while the stage trains; only prepare and end_stage may",
    ):
        run(recipe([{"name": "s", "methods": ["changes"]}]), registry(changes=Changes), tmp_path / "o")
