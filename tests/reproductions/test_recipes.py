from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import condensery_reproductions
from condensery.contract import Registry
from condensery.recipe import load_yaml
from condensery.run import Run
from condensery.storage import build_with_weights
from condensery_catalogue import rejudge
from condensery_catalogue.metrics import measures
from condensery_catalogue.points import is_drawn
from condensery_catalogue.reproduce import reproduce_paper
from condensery_catalogue.reproduction import card_of, load_reproduction
from condensery_catalogue.results import stored_results
from condensery_catalogue.running import RunOptions
from condensery_plugins.tasks.cifar import Cifar10

REGISTRY = Registry.open()
FOLDER = Path(condensery_reproductions.__file__).parent
KEYS = sorted(path.parent.name for path in FOLDER.glob("*/recipe.yaml"))


def test_every_folder_is_a_reproduction() -> None:
    entries = REGISTRY.entries["recipes"].values()
    assert len(KEYS) > 20
    assert [entry.key for entry in entries if entry.plugin == "reproductions"] == KEYS


@pytest.mark.parametrize("key", KEYS)
def test_every_tier_is_a_recipe_and_every_comparison_a_claim(key: str) -> None:
    plan = load_reproduction(REGISTRY, key)
    assert plan.key == key
    assert REGISTRY.card(plan.card) is not None
    card = card_of(REGISTRY, plan)
    claims = {c["id"]: c for c in card["claims"]}
    for tier in plan.tiers.values():
        recipes = tier.recipes(key)
        assert plan.ready(tier, card, {arm: measures(REGISTRY, recipe) for arm, recipe in recipes.items()})
        for item in tier.compare if tier.compare is not None else plan.compare:
            assert item.claim in claims
            assert item.arm in tier.arms
            if (
                item.metric.startswith("ratios.") and claims[item.claim]["unit"] != "statement"
            ):  # percents against percents, times against times
                assert (claims[item.claim]["unit"] == "%") == item.metric.endswith("_percent")
            if item.metric.startswith("after.quality."):
                metrics = REGISTRY.load("tasks", recipes[item.arm].task.key).metrics
                (higher,) = (m.higher_is_better for m in metrics if item.metric == f"after.quality.{m.name}")
                assert claims[item.claim]["better"] == ("higher" if higher else "lower"), item.claim
    assert "smoke" in plan.tiers


ONE_RATE = {
    "diswot-similarity": "what is compared is how scores rank the students, which all train alike",
    "gong-vq": "nothing trains after the codes",
    "haq": "nothing trains",
    "ptq": "nothing trains",
}
"""Desk tiers whose arms try no rates, and why."""


@pytest.mark.parametrize("key", KEYS)
def test_each_arm_at_the_desk_has_its_own_best_rate(key: str) -> None:
    """A rate that suits the method makes its baseline look worse than it is."""
    desk = load_reproduction(REGISTRY, key).tiers.get("desk")
    if desk is None:
        return
    rates = desk.grid.get("train.optimizer.lr", [])
    assert (len(rates) < 2) == (key in ONE_RATE)
    for arm, recipe in desk.recipes(key).items():
        own = ["lr" in stage.train.get("optimizer", {}) for stage in played(recipe.stages)]
        assert not rates or not own or not all(own), (
            f"{arm}: each stage has its own rate, so that the grid changes nothing"
        )


def played(stages: Iterable[Any]) -> Iterator[Any]:
    """Yield stages with those in rounds."""
    for stage in stages:
        if hasattr(stage, "stages"):
            yield from played(stage.stages)
        else:
            yield stage


@pytest.mark.parametrize("key", KEYS)
def test_smoke_runs(key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONDENSERY_CACHE", str(tmp_path / "cache"))
    options = RunOptions(device="cpu", out=tmp_path / "out", as_json=True)
    reproduce_paper(key, "smoke", None, options)
    result = json.loads((tmp_path / "out" / "smoke" / "result.json").read_text())
    assert result["scale"] == "scaled-down"
    assert all(c["verdict"]["word"] == "scaled-down" for c in result["comparisons"] if c["verdict"])
    first = next(iter(result["arms"].values()))
    assert all(len(figure["values"]) == len(result["seeds"]) == 1 for figure in first["quality"].values())
    assert first["quality"]
    assert (tmp_path / "out" / "smoke" / "result.svg").is_file() == is_drawn(result)
    plan = load_reproduction(REGISTRY, key)  # whatever is compared is kept, so that it can be judged again
    assert rejudge.rejudged(result, plan, card_of(REGISTRY, plan))["comparisons"] == result["comparisons"]


@pytest.mark.slow
@pytest.mark.parametrize("key", KEYS)
def test_what_is_to_be_run_for_hours_plays_two_batches_a_stage(key: str, tmp_path: Path) -> None:
    """The dry run of each arm of the desk and paper tiers; it needs their data."""
    for name, tier in load_reproduction(REGISTRY, key).tiers.items():
        for arm, recipe in tier.recipes(key).items() if name != "smoke" else ():
            found = Run(recipe, REGISTRY, out=tmp_path / name / arm, device="cpu").check()
            assert found.calls or not recipe.stages  # a teacher alone


def test_each_stored_result_belongs_to_the_recipe_of_its_folder() -> None:
    paths = sorted(FOLDER.glob("*/*.json"))
    assert len(paths) >= 7
    for path in paths:
        result, key = json.loads(path.read_text(encoding="utf-8")), path.parent.name
        plan = load_reproduction(REGISTRY, key)
        assert (result["key"], result["card"], result["tier"]) == (key, plan.card, path.stem)
        assert set(result["arms"]) == set(plan.tiers[result["tier"]].arms), path
        assert result.pop("checksum")
        assert result in stored_results(REGISTRY, key)


def test_git_keeps_no_picture() -> None:
    assert not list(FOLDER.rglob("*.svg"))


def test_stored_results_never_call_a_scaled_down_run_reproduced() -> None:
    for result in (result for key in KEYS for result in stored_results(REGISTRY, key)):
        assert result["epoch"] == "last"
        for comparison in result["comparisons"]:
            claims = card_of(REGISTRY, load_reproduction(REGISTRY, result["key"]))["claims"]
            assert comparison["claim"] in claims, f"{result['key']}: the claim was changed"
            said = (comparison["verdict"] or {}).get("word")  # a statement without a figure has no verdict
            if result["scale"] != "paper" or comparison["claim"]["value"]["source"] == "recalled":
                assert said != "reproduced"


def test_stored_results_are_judged_by_todays_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(FOLDER.parents[1])
    assert rejudge.main(["--check"]) == 0


def test_the_nets_that_the_package_brings_fit_their_recipes() -> None:
    plan = load_reproduction(REGISTRY, "structured-magnitude-vit")
    spec = plan.tiers["desk"].recipes(plan.key)["dense"].model
    assert spec.weights == "condensery_reproductions:nets/vit-cifar10.safetensors"
    net = build_with_weights(spec, Cifar10().facts, REGISTRY, 0)
    random = build_with_weights(spec.model_copy(update={"weights": None}), Cifar10().facts, REGISTRY, 0)
    assert not torch.equal(net.get_parameter("head.weight"), random.get_parameter("head.weight"))
    made_by = load_yaml(FOLDER / "structured-magnitude-vit" / "vit-cifar10.yaml")
    assert {**made_by["model"], "weights": spec.weights} == spec.model_dump(exclude_defaults=True)
