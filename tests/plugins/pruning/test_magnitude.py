from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from condensery import Registry, Run, UnknownKey, UsageError
from condensery.recipe import parse_recipe


def run(tmp_path: Path, *stages: Any, model: Any = "lenet-300-100") -> dict[str, Any]:
    train = {"batch_size": 16, "epochs": 0}
    data = {"model": model, "task": "digits", "base": "none", "data": {"subset": {"size": 64}}, "train": train}
    return Run(parse_recipe({**data, "stages": list(stages)}), Registry.open(), out=tmp_path / "o").execute()


def test_counts_by_hand(tmp_path: Path) -> None:
    """An MLP 64-20-10 has 1,480 weights and 30 biases: a quarter is 370 zeros."""
    stage = {"methods": [{"magnitude": {"sparsity": 0.25}}]}
    report = run(tmp_path, stage, model={"key": "mlp", "hidden": [20]})
    assert report["before"]["parameters"] == 64 * 20 + 20 * 10 + 30
    zeros_before = report["before"]["parameters"] - report["before"]["nonzeros"]
    assert report["after"]["parameters"] - report["after"]["nonzeros"] - zeros_before == 370
    assert report["stages"][0]["report"]["magnitude.sparsity_percent"] == pytest.approx(25.0)


def test_density_by_layer(tmp_path: Path) -> None:
    """64-20-10: fc1 keeps 10 % of 1,280, fc2 keeps all but half of its 200."""
    stage = {"methods": [{"magnitude": {"sparsity": 0.5, "density": {"fc1": 0.1}}}]}
    report = run(tmp_path, stage, model={"key": "mlp", "hidden": [20]})
    gone = report["stages"][0]["report"]["magnitude.sparsity_percent"] / 100 * 1480
    assert gone == pytest.approx(1280 * 0.9 + 100)


def test_steps_reach_the_share_gradually(tmp_path: Path) -> None:
    stage = {"methods": [{"magnitude": {"sparsity": 0.8, "steps": 4}}], "epochs": 2}
    report = run(tmp_path, stage, model={"key": "mlp", "hidden": [20]})
    assert report["stages"][0]["report"]["magnitude.sparsity_percent"] == pytest.approx(80.0)


def test_more_steps_than_batches_reach_the_share_too(tmp_path: Path) -> None:
    """Of nine steps two or three come before each of four batches; the last one isn't lost behind them."""
    stage = {"methods": [{"magnitude": {"sparsity": 0.8, "steps": 9}}], "epochs": 1}
    report = run(tmp_path, stage, model={"key": "mlp", "hidden": [20]})
    assert report["stages"][0]["report"]["magnitude.sparsity_percent"] == pytest.approx(80.0)


def test_a_stage_without_batches_reaches_the_share_at_once(tmp_path: Path) -> None:
    stage = {"methods": [{"magnitude": {"sparsity": 0.8, "steps": 4}}], "epochs": 0}
    report = run(tmp_path, stage, model={"key": "mlp", "hidden": [20]})
    assert report["stages"][0]["report"]["magnitude.sparsity_percent"] == pytest.approx(80.0)


def test_rounds_never_bring_a_weight_back(tmp_path: Path) -> None:
    """1 - 0.8^R after R rounds, as prune-then-distill's authors prune."""
    item = {"repeat": 3, "stages": [{"methods": [{"magnitude": {"sparsity": "=1 - 0.8 ** (round + 1)"}}], "epochs": 1}]}
    report = run(tmp_path, item, model={"key": "mlp", "hidden": [20]})
    reached = [s["report"]["magnitude.sparsity_percent"] for s in report["stages"]]
    assert reached == pytest.approx([20.0, 36.0, 48.8], abs=0.1)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"density": {"fc9": 0.5}}, "magnitude.density or quality: unknown layer 'fc9'; did you mean 'fc"),
        ({"quality": {"fc9": 1.0}}, "magnitude.density or quality: unknown layer 'fc9'; did you mean 'fc"),
        ({"skip": ["fc9"]}, "magnitude.skip: unknown layer 'fc9'; did you mean 'fc"),
    ],
)
def test_an_unknown_layer_is_named(settings: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(UnknownKey, match=f"^{says}"):
        run(tmp_path, {"methods": [{"magnitude": settings}]})


def test_layers_to_skip_stay_as_they_are(tmp_path: Path) -> None:
    """64-20-10-10: half of the 200 weights in the middle go, none of the first and the last layer."""
    stage = {"methods": [{"magnitude": {"skip": ["first", "last"], "scope": "local"}}]}
    report = run(tmp_path, stage, model={"key": "mlp", "hidden": [20, 10]})
    gone = report["stages"][0]["report"]["magnitude.sparsity_percent"] / 100 * (1280 + 200 + 100)
    assert gone == pytest.approx(100)


def test_the_most_exact_name_gives_the_rule(tmp_path: Path) -> None:
    """Factor 0 keeps all but fc1, of which a tenth is kept."""
    stage = {"methods": [{"magnitude": {"density": {"fc1": 0.1}, "quality": {"fc*": 0.0}}}]}
    report = run(tmp_path, stage, model={"key": "mlp", "hidden": [20]})
    gone = report["stages"][0]["report"]["magnitude.sparsity_percent"] / 100 * 1480
    assert gone == pytest.approx(1280 * 0.9)


def test_the_threshold_is_a_factor_of_the_deviation(tmp_path: Path) -> None:
    """fc1 starts evenly spread over -1/8..1/8, so its deviation is 1/(8 sqrt 3); below one of them are 58 %."""
    stage = {"methods": [{"magnitude": {"sparsity": 0.5, "quality": {"fc1": 1.0}}}]}
    report = run(tmp_path, stage, model={"key": "mlp", "hidden": [400]})
    gone = report["stages"][0]["report"]["magnitude.sparsity_percent"] / 100 * (64 * 400 + 4000)
    assert gone == pytest.approx(64 * 400 / 3**0.5 + 4000 / 2, rel=0.01)


def test_a_factor_for_every_other_layer(tmp_path: Path) -> None:
    """Factor 0 keeps fc1; 1/2 of the deviation takes 29 % of fc2."""
    stage = {"methods": [{"magnitude": {"quality": {"fc1": 0.0, "*": 0.5}}}]}
    report = run(tmp_path, stage, model={"key": "mlp", "hidden": [400]})
    gone = report["stages"][0]["report"]["magnitude.sparsity_percent"] / 100 * (64 * 400 + 4000)
    assert gone == pytest.approx(4000 * 0.5 / 3**0.5, rel=0.05)


def test_a_layer_has_one_rule(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="layer 'fc1' has a density and a quality"):
        run(tmp_path, {"methods": [{"magnitude": {"density": {"fc1": 0.5}, "quality": {"fc1": 1.0}}}]})
