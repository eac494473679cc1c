"""Results that were made by a recipe which says something else by now."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from condensery import Registry
from condensery_catalogue.outgrown import in_words, outgrown
from condensery_catalogue.pending import pending_tiers
from condensery_catalogue.reproduction import Reproduction, load_reproduction
from condensery_catalogue.results import stored_results

REGISTRY = Registry.open()


def made() -> tuple[dict[str, Any], Reproduction]:
    """Return a stored result that its recipe would make again, and the recipe."""
    (result,) = stored_results(REGISTRY, "ternarybert-words")
    return result, load_reproduction(REGISTRY, "ternarybert-words")


def test_what_its_recipe_would_make_again_has_not_changed() -> None:
    assert outgrown(*made()) == []
    assert in_words([]) == ""


@pytest.mark.parametrize(
    ("path", "value", "changed"),
    [
        (("seeds",), [0, 1], "2 seeds"),
        (("grid",), {"train.optimizer.lr": [0.0003, 0.001]}, "other settings to try"),
        (("grid",), {}, "other settings to try"),
        (("defaults", "train", "batch_size"), 32, "arm float: train"),
        (("defaults", "task"), "digits", "arm lsq-2: task"),
        (("arms", "lsq-2", "stages"), [], "arm lsq-2: stages"),
        (("arms", "new"), {"stages": []}, "arm new is new"),
        (("arms",), {"float": {"stages": [{"name": "longer"}]}}, "arm lsq-8 is gone"),
    ],
)
def test_a_change_is_named(path: tuple[str, ...], value: Any, changed: str) -> None:
    result, plan = made()
    data = copy.deepcopy(plan.model_dump())
    node = data["tiers"]["desk"]
    node["figure"] = None
    for name in path[:-1]:
        node = node[name]
    node[path[-1]] = value
    assert changed in outgrown(result, Reproduction.model_validate(data))


def test_a_grid_that_came_later_and_a_recipe_that_is_no_more_are_named() -> None:
    result, plan = made()
    arms = {**result["recipes"], "float": {"nothing": 1}}
    assert outgrown({**result, "recipes": arms}, plan) == ["arm float: its recipe can't be read any more"]
    assert outgrown({**result, "tier": "paper"}, plan) == ["the tier is gone"]
    del result["grid"]
    assert "settings to try" in outgrown(result, plan)
    assert in_words(["3 seeds", "arm a: data"]).endswith("waits for another run: 3 seeds; arm a: data.")


def test_what_has_changed_is_pending_again(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def waiting() -> list[str]:
        return [item.jobs.tier for item in pending_tiers(REGISTRY, ("desk",), tmp_path, ("ternarybert-words",))]

    assert waiting() == []
    (result,) = stored_results(REGISTRY, "ternarybert-words")
    monkeypatch.setattr("condensery_catalogue.pending.stored_results", lambda *_: [{**result, "seeds": [0]}])
    assert waiting() == ["desk"]
