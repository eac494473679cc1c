"""A recipe run to its end, and the same one killed and resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.core.helpers import Watch

from condensery import Registry, Run
from condensery.recipe import Recipe
from condensery.testing import different_tensors


def run(recipe: Recipe, registry: Registry, out: Path, **options: Any) -> tuple[dict[str, Any], Watch]:
    """Run a recipe; returns the report and who has seen the last student."""
    watch = Watch()
    return Run(recipe, registry, out=out, observer=watch, **options).execute(), watch


def run_also_killed(recipe: Recipe, registry: Registry, out: Path, **killed: Any) -> tuple[dict[str, Any], Watch]:
    """Run a recipe twice and hold both to the same bits and reports; returns the first one's report and watch.

    Before either the net is trained a little: for the first run now, which then goes on to its end; the second run
    takes it from the cache, is killed, and resumed.

    :param killed: when, see :class:`Watch`; after the first epoch of the first stage by default.
    """
    base = {"epochs": 1, "max_steps": 2, "batch_size": 16, "optimizer": {"lr": 0.05}}
    recipe = recipe.model_copy(update={"base": base})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONDENSERY_CACHE", str(out / "cache"))
        report, watch = run(recipe, registry, out / "whole")
        with pytest.raises(KeyboardInterrupt):
            Run(recipe, registry, out=out / "killed", observer=Watch(**{"stop_after": 1} | killed)).execute()
        again, resumed = run(recipe, registry, out / "killed", resume=True)

    (cold, *stages), (warm, *resumed_stages) = report["stages"], again["stages"]
    assert "cached" not in cold
    assert warm["cached"]
    assert different_tensors(watch.student, resumed.student) == []
    for one, other in zip(stages, resumed_stages, strict=True):
        assert one["report"] == other["report"]
        assert [e["terms"] for e in one["history"]] == [e["terms"] for e in other["history"]]
    return {**report, "stages": stages}, watch
