from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import condensery_reproductions
from condensery.contract import Registry
from condensery.recipe import parse_yaml
from condensery.storage import build_with_weights
from condensery_catalogue.drawing import is_drawn
from condensery_catalogue.metrics import measures
from condensery_catalogue.reproduce import reproduce_paper
from condensery_catalogue.reproduction import load_reproduction
from condensery_catalogue.running import RunOptions
from condensery_plugins.tasks.cifar import Cifar10
from condensery_reproductions import REPRODUCTIONS

REGISTRY = Registry.open()


@pytest.mark.parametrize("key", REPRODUCTIONS)
def test_every_tier_is_a_recipe_and_every_comparison_a_claim(key: str) -> None:
    plan = load_reproduction(REGISTRY, key)
    card = REGISTRY.card(plan.card)
    assert card is not None
    claims = {c["id"]: c for c in card["claims"]}
    for tier in plan.tiers.values():
        recipes = tier.recipes(key)
        assert plan.ready(tier, card, {arm: measures(REGISTRY, recipe) for arm, recipe in recipes.items()})
        for item in tier.compare if tier.compare is not None else plan.compare:
            assert item.claim in claims
            assert item.arm in tier.arms
            if item.metric.startswith("ratios."):  # percents against percents, times against times
                assert (claims[item.claim]["unit"] == "%") == item.metric.endswith("_percent")
    assert "smoke" in plan.tiers


@pytest.mark.parametrize("key", REPRODUCTIONS)
def test_smoke_runs(key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONDENSERY_CACHE", str(tmp_path / "cache"))
    options = RunOptions(device="cpu", out=tmp_path / "out", as_json=True)
    reproduce_paper(key, "smoke", None, tmp_path / "results", options)
    result = json.loads((tmp_path / "results" / key / "smoke.json").read_text())
    assert result["scale"] == "scaled-down"
    assert all(c["verdict"] == "scaled-down" for c in result["comparisons"])
    first = next(iter(result["arms"].values()))
    assert len(first["quality"]["accuracy"]["values"]) == len(result["seeds"]) == 1
    picture = tmp_path / "results" / key / "smoke.svg"
    assert picture.is_file() == is_drawn(result)


def test_stored_results_never_call_a_scaled_down_run_reproduced() -> None:
    folder = Path(__file__).parents[2] / "reproductions" / "results"
    for path in folder.glob("*/*.json"):
        result = json.loads(path.read_text())
        assert result["epoch"] == "last"
        for comparison in result["comparisons"]:
            claims = REGISTRY.card(result["card"])["claims"]  # type: ignore[index]
            assert comparison["claim"] in claims, f"{path}: the claim was changed"
            if result["scale"] != "paper" or comparison["claim"]["value"]["source"] == "recalled":
                assert comparison["verdict"] != "reproduced"


def test_the_nets_that_the_package_brings_fit_their_recipes() -> None:
    plan = load_reproduction(REGISTRY, "structured-magnitude-vit")
    spec = plan.tiers["desk"].recipes(plan.key)["dense"].model
    assert spec.weights == "condensery_reproductions:nets/vit-cifar10.safetensors"
    net = build_with_weights(spec, Cifar10().facts, REGISTRY, 0)
    random = build_with_weights(spec.model_copy(update={"weights": None}), Cifar10().facts, REGISTRY, 0)
    assert not torch.equal(net.get_parameter("head.weight"), random.get_parameter("head.weight"))
    made_by = parse_yaml((Path(condensery_reproductions.__file__).parent / "nets" / "vit-cifar10.yaml").read_text())
    assert {**made_by["model"], "weights": spec.weights} == spec.model_dump(exclude_defaults=True)
