from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tests.core.helpers import Act, recipe, registry
from torch import Tensor, nn

from condensery import Run, hookimpl
from condensery.run import Outputs, Stage


def test_helpers_train_and_vanish(tmp_path: Path) -> None:
    moved: list[float] = []

    class Helped(Act):
        def __post_init__(self) -> None:
            def start(stage: Stage) -> None:
                stage.student.tap("layer1")
                stage.student.helpers["regressor"] = nn.Conv2d(8, 2, 1)

            self.prepare_ = start

        @hookimpl
        def loss_terms(self, stage: Stage, outputs: Mapping[str, Outputs]) -> dict[str, Tensor]:
            out = stage.student.helpers["regressor"](outputs["student"].taps["layer1"])
            return {"hint": (out - 1).square().mean()}

        @hookimpl
        def end_stage(self, stage: Stage) -> None:
            moved.append(float(stage.student.helpers["regressor"].bias.detach().abs().sum()))  # type: ignore[operator]

    report = Run(recipe([{"methods": ["helped"], "epochs": 2}]), registry(helped=Helped), out=tmp_path / "o").execute()
    terms = [h["terms"]["student.helped.hint"] for h in report["stages"][0]["history"]]
    assert terms[1] < terms[0]
    assert moved[-1] > 0
