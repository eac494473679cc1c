from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.core.helpers import Act, recipe, registry

from condensery import Run, hookimpl
from condensery.run import Stage
from condensery_catalogue.running import print_report


def test_what_collapsed_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Wipes(Act):
        @hookimpl
        def end_stage(self, stage: Stage) -> None:
            with torch.no_grad():
                stage.weights().by_path["fc2"].latent.zero_()

    stages = [{"name": "fine"}, {"name": "s", "methods": ["wipes"]}]
    what = recipe(stages, model={"key": "mlp", "hidden": [16]})
    report = Run(what, registry(wipes=Wipes), out=tmp_path / "o").execute()
    print_report(report, tmp_path / "o")
    found = [line for line in capsys.readouterr().out.splitlines() if line.startswith("collapsed")]
    assert found == ["collapsed in stage s (wipes): fc2, outputs are constant"]

    del report["collapsed"]  # as in a report that was written before core looked
    print_report(report, tmp_path / "o")
    assert "collapsed in stage" not in capsys.readouterr().out
