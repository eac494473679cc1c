from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.core.helpers import recipe, registry

from condensery import Run, UsageError
from condensery.errors import UnknownKey


def test_rounds_stop_when_the_condition_holds(tmp_path: Path) -> None:
    rounds = {
        "repeat": 6,
        "until": "sparsity >= 0.5",
        "stages": [{"name": "p", "methods": [{"magnitude": {"sparsity": "=1 - 0.7 ** (round + 1)"}}]}],
    }
    report = Run(recipe([rounds]), registry(), out=tmp_path / "o").execute()
    reached = [s["report"]["magnitude.sparsity_percent"] for s in report["stages"]]
    assert [round(r, 1) for r in reached] == [30.0, 51.0]


@pytest.mark.parametrize(
    ("until", "says"),
    [
        ("sparcity >= 0.9", r"^until: sparcity >= 0\.9: unknown name 'sparcity'; did you mean 'sparsity'\?$"),
        ("sparsity > 0.5 or acuracy > 90", r"^until: .*: unknown name 'acuracy'; did you mean 'accuracy'\?$"),
        ("quality > 90", r"^until: .*: unknown name 'quality'; known: accuracy, .*, sparsity$"),
    ],
)
def test_an_unknown_name_in_until_fails_before_anything_runs(tmp_path: Path, until: str, says: str) -> None:
    """Two rounds deep, and before a stage whose own fault only a dry run would find."""
    inner = {"repeat": 2, "until": until, "stages": ["magnitude"]}
    broken = {"methods": [{"magnitude": {"sparcity": 0.5}}]}
    with pytest.raises(UnknownKey, match=says):
        Run(recipe([broken, {"repeat": 2, "stages": [inner]}]), registry(), out=tmp_path / "o").execute()
    assert not (tmp_path / "o").exists()


def test_an_until_that_compares_nothing_fails_in_the_dry_run(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'accuracy' is not a condition"):
        Run(
            recipe([{"repeat": 2, "until": "accuracy", "stages": ["magnitude"]}]), registry(), out=tmp_path / "o"
        ).check()


@pytest.mark.parametrize(("until", "times"), [("sparsity > 2 or errors < 0", 3), ("sparsity > 2", 0)])
def test_quality_is_measured_only_where_the_condition_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, until: str, times: int
) -> None:
    from condensery.run import validation

    asked: list[Any] = []

    def figures(task: Any, *rest: Any, **how: Any) -> dict[str, float]:
        asked.append(rest)
        return {m.name: 0.0 for m in task.metrics}

    monkeypatch.setattr(validation, "evaluate", figures)
    what = recipe([{"repeat": 2, "until": until, "stages": [{"methods": ["magnitude"], "epochs": 0}]}])
    assert len(Run(what, registry(), out=tmp_path / "o").execute()["stages"]) == 2
    assert len(asked) == times  # after each pass, and once for the report
    assert {split for _, _, split in asked} <= {"validation"}
