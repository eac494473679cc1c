from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.plugins.quantization.helpers import REGISTRY, stage_of

from condensery import NotApplicable, UsageError
from condensery.nets import attached
from condensery.recipe import parse_recipe
from condensery.run import Run, Space, TrialStore, run_search
from condensery.tasks import Subset
from condensery_plugins.quantization.haq import HAQ
from condensery_plugins.quantization.layer_widths import (
    Budget,
    LayerFacts,
    bit_serial_times,
    facts_of,
    features,
    layer_cost,
)
from condensery_plugins.quantization.lsq import LSQ
from condensery_plugins.quantization.ptq import PTQ
from condensery_plugins.quantization.width_searches import WIDTHS, GreedyWidths, WidthAgent, width_of

WEIGHTS = ["layer_bits.a", "layer_bits.b"]
BOTH = ["layer_bits.a", "layer_activation_bits.a", "layer_bits.b", "layer_activation_bits.b"]


def layer(path: str, parameters: int, macs: int = 0) -> LayerFacts:
    return LayerFacts(path, 1, 1, 1, 1, 1, parameters, depthwise=False, macs=macs)


@pytest.mark.parametrize(
    ("action", "bits"),
    # round(1.5 + 7 a): each of 2..8 has a seventh of the line.
    [(0.0, 2), (0.14, 2), (0.15, 3), (0.5, 5), (0.85, 7), (0.86, 8), (1.0, 8)],
)
def test_actions_as_bits(action: float, bits: int) -> None:
    assert width_of(action, 2, 8) == bits


def test_features_of_two_layers() -> None:
    """A convolution 3 -> 16 by 3 x 3 on 8 x 8 pixels, and the linear layer at the end, 64 -> 10."""
    stage = stage_of("resnet8")
    first, last = facts_of(stage, ["conv1", "linear"], count=True)
    assert first.row(0, is_weight=True) == [0, 1, 16, 3, 1, 64, 144, 0, 1]  # digits have one channel
    assert last.row(1, is_weight=False) == [1, 64, 10, 1, 0, 1, 640, 0, 0]
    assert (first.macs, last.macs) == (64 * 144, 640)

    table = features([first.row(0, is_weight=True), last.row(1, is_weight=True)])
    assert table.tolist() == [[0, 0, 1, 1, 1, 1, 0, 0, 0], [1, 1, 0, 0, 0, 0, 1, 0, 0]]
    middle = features([[0.0], [1.0], [4.0]])
    assert middle.flatten().tolist() == [0, 0.25, 1]


def test_the_budget_is_held_from_the_back_one_bit_at_a_time() -> None:
    """Layers of 10 and 30 weights: 8 and 8 bits are 320; of these half may be left, 160.

    From the back: 30 * 7 + 80 = 290, then 30 * 7 + 70 = 280, 250, 240, 210, 200, 170, and 30 * 4 + 10 * 4 = 160.
    """
    cost = layer_cost("size", {})
    budget = Budget([layer("a", 10), layer("b", 30)], cost, dict.fromkeys(WEIGHTS, 8), WEIGHTS, 2, 0.5)
    assert budget.of({}) == 1
    assert budget.within({}) == {"layer_bits.a": 4, "layer_bits.b": 4}
    assert budget.within({"layer_bits.b": 5}) == {"layer_bits.a": 7, "layer_bits.b": 3}  # 230, 200, 190, 160
    assert budget.within({"layer_bits.a": 2, "layer_bits.b": 4}) == {"layer_bits.a": 2, "layer_bits.b": 4}  # 140 fit


def test_a_layers_input_is_lowered_before_its_weights_and_none_below_the_least() -> None:
    """Bit operations 1 * w * a of each layer: 64 + 64; of these 0.9 may be left, 115.2: b goes to 8 * 7, then 7 * 7."""
    layers = [layer("a", 1, macs=1), layer("b", 1, macs=1)]
    full = dict.fromkeys(BOTH, 8)
    budget = Budget(layers, layer_cost("bitops", {}), full, BOTH, 2, 0.9)
    assert budget.within({}) == full | {"layer_activation_bits.b": 7, "layer_bits.b": 7}
    assert Budget(layers, layer_cost("bitops", {}), full, BOTH, 2, 0.01).within({}) == dict.fromkeys(BOTH, 2)
    free = ["layer_bits.a"]
    assert Budget(layers, layer_cost("bitops", {}), full, free, 2, 0.01).within({}) == full | {"layer_bits.a": 2}


def test_latency_is_measured_and_grows_with_the_planes() -> None:
    fact = LayerFacts("a", 64, 64, 3, 1, 64, 64 * 64 * 9, depthwise=False, macs=64 * 64 * 64 * 9)
    times = bit_serial_times(fact, [4, 64])
    assert 0 < 2 * times[4] < times[64]
    assert layer_cost("latency", {"a": times})(fact, 8, 8) == times[64]


def space_of(names: list[str]) -> Space:
    bounds = {"low": 2, "high": 8, "step": 1}
    return Space.model_validate(
        {"parameters": dict.fromkeys(names, bounds), "objectives": {"validation.accuracy": "maximize"}}
    )


def agent(seed: int = 0, warmup: int = 3) -> WidthAgent:
    rows = features([[0.0, 5.0], [1.0, 7.0]])
    return WidthAgent(space=space_of(WEIGHTS), seed=seed, features=rows, reference=90.0, warmup=warmup)


def toy(widths: Any, *_: Any) -> dict[str, Any]:
    """Score best at 7 and 2 bits."""
    first, second = widths.values()
    return {"validation": {"accuracy": 90.0 - 3 * abs(first - 7) - 3 * abs(second - 2)}, WIDTHS: dict(widths)}


def test_an_agent_remembers_its_own_actions_and_a_tenth_of_what_was_lost() -> None:
    made, store = agent(warmup=10), TrialStore(None, space_of(WEIGHTS))
    (first, _) = run_search(made, toy, store, 2)
    made.propose((first,))
    assert [float(step.action) for step in made.agent_.memory][:2] == pytest.approx(first.notes["actions"])
    assert [float(step.reward) for step in made.agent_.memory][:2] == pytest.approx(2 * [0.1 * (first.values[0] - 90)])
    assert [float(step.goes_on) for step in made.agent_.memory] == [1, 0, 1, 0]

    # What the step before chose, as a share of 8 bits, beside the features; before the first, 1.
    bits = first.overrides["layer_bits.a"]
    assert made.agent_.memory[0].state.tolist() == [0, 0, 1]
    assert made.agent_.memory[1].state.tolist() == pytest.approx([1, 1, bits / 8])
    assert torch.equal(made.agent_.memory[0].following, made.agent_.memory[1].state)


def test_a_killed_search_proposes_what_it_would_have_proposed(tmp_path: Path) -> None:
    """Seven trials at once, and five and two in another process's stead: the same actions, bit for bit."""
    whole = run_search(agent(), toy, TrialStore(None, space_of(WEIGHTS)), 7)
    run_search(agent(), toy, TrialStore(tmp_path / "t.jsonl", space_of(WEIGHTS)), 5)
    parts = run_search(agent(), toy, TrialStore(tmp_path / "t.jsonl", space_of(WEIGHTS)), 7)
    assert [trial.notes for trial in whole] == [trial.notes for trial in parts]
    assert len({str(trial.notes) for trial in whole}) == 7
    assert [t.notes for t in run_search(agent(1), toy, TrialStore(None, space_of(WEIGHTS)), 1)] != [whole[0].notes]


def test_greedy_steps_go_one_bit_from_the_best() -> None:
    made = GreedyWidths(space=space_of(WEIGHTS))
    trials = run_search(made, toy, TrialStore(None, space_of(WEIGHTS)), 60)
    assert trials[0].overrides == dict.fromkeys(WEIGHTS, 8)
    scores = [trial.values[0] for trial in trials]
    assert max(scores) == 90.0
    assert len(trials) < 60  # no neighbour of the best one was left
    assert len({str(trial.overrides) for trial in trials}) == len(trials)


def stage_with_validation(tmp_path: Path) -> Any:
    stage = stage_of("resnet8", width=0.5)
    stage.subset, stage.place = Subset(256, held_out=0.1), tmp_path / "stage-0"
    return stage


@pytest.mark.parametrize("search", ["ddpg", "random", "greedy"])
def test_the_best_widths_within_the_budget_are_attached(search: Any, tmp_path: Path) -> None:
    stage = stage_with_validation(tmp_path)
    method = HAQ(search=search, budget=0.4, episodes=5, warmup=3, examples=100)
    method.prepare(stage=stage)
    bits = {item.target: item.transform.bits for item in attached(stage.student.module)}
    assert bits.keys() == {weight.name for weight in stage.weights()}  # inputs are floats where the budget is of size
    assert bits["conv1.weight"] == bits["linear.weight"] == 8
    assert {f"layer_bits.{name.removesuffix('.weight')}": b for name, b in bits.items()} == method.widths_

    sizes = {weight.name: weight.latent.numel() for weight in stage.weights()}
    left = sum(bits[name] * size for name, size in sizes.items()) / (8 * sum(sizes.values()))
    assert method.cost_ == pytest.approx(left)
    assert left <= 0.4
    found = [json.loads(line) for line in (tmp_path / "stage-0-haq.jsonl").read_text().splitlines()]
    assert len(found) > 5


@pytest.mark.parametrize("cost", ["bitops", "latency"])
def test_inputs_have_widths_where_they_cost_something(cost: Any, tmp_path: Path) -> None:
    stage = stage_with_validation(tmp_path)
    method = HAQ(cost=cost, budget=0.6, episodes=3, warmup=1, examples=50, samples=32, tune_steps=1)
    method.prepare(stage=stage)
    targets = {item.target for item in attached(stage.student.module)}
    assert "conv1:input" not in targets  # images are 8 bits wide as they come
    assert {"linear:input", "layer1.0.conv1:input"} < targets
    assert method.cost_ <= 0.6
    assert (tmp_path / "stage-0-haq-seconds.json").is_file() == (cost == "latency")


def test_a_budget_that_no_widths_meet_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotApplicable, match=r"with 2 bits everywhere 0.2[0-9]* of the size is left"):
        HAQ(budget=0.1).prepare(stage=stage_with_validation(tmp_path))


def test_fewest_bits_above_the_most_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="haq: min_bits 6 is more than max_bits 4"):
        HAQ(min_bits=6, max_bits=4).prepare(stage=stage_with_validation(tmp_path))


@pytest.mark.parametrize("kind", [PTQ, LSQ])
def test_found_widths_are_settings_of_other_quantizers(kind: Any) -> None:
    stage = stage_of("resnet8", width=0.5)
    kind(
        weight_bits=4,
        activation_bits=4,
        layer_bits={"layer1.0.conv1": 3, "last": 6},
        layer_activation_bits={"layer1.0.conv1": 5},
    ).prepare(stage=stage)
    bits = {item.target: item.transform.bits for item in attached(stage.student.module)}
    assert (bits["layer1.0.conv1.weight"], bits["layer1.0.conv1:input"]) == (3, 5)
    assert (bits["layer1.0.conv2.weight"], bits["layer1.0.conv2:input"]) == (4, 4)
    assert (bits["linear.weight"], bits["linear:input"], bits["conv1.weight"]) == (6, 8, 8)


def recipe(**settings: Any) -> Any:
    return parse_recipe(
        {
            "model": {"key": "resnet8", "width": 0.5},
            "task": "digits",
            "base": "none",
            "data": {"subset": {"size": 100}},
            "train": {"epochs": 1, "batch_size": 50},
            "stages": [{"methods": [{"haq": {"episodes": 6, "warmup": 3, "examples": 50, **settings}}]}],
        }
    )


def test_a_run_that_is_killed_in_its_search_goes_on_bit_equal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is interrupted as the fifth trial is stored; the journal has four, and the rest is as in one go."""
    whole = Run(recipe(), REGISTRY, out=tmp_path / "whole")
    report = whole.execute()
    assert report["recipe"]["validation"] == 0.1  # asked for by the method: nothing trains on what it looks at

    begin, begun = TrialStore.begin, []

    def killed(self: TrialStore, *args: Any) -> Any:
        if self.study.user_attrs and "JournalStorage" in type(self.storage).__name__:
            begun.append(0)
            if len(begun) == 5:
                raise KeyboardInterrupt
        return begin(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(TrialStore, "begin", killed)
        with pytest.raises(KeyboardInterrupt):
            Run(recipe(), REGISTRY, out=tmp_path / "parts").execute()
    parts = Run(recipe(), REGISTRY, out=tmp_path / "parts", resume=True)
    again = parts.execute()

    assert begun == [0] * 5
    assert again["stages"][0]["report"] == report["stages"][0]["report"]
    assert again["validation"] == report["validation"]
    assert whole.baked is not None
    assert parts.baked is not None
    for a, b in zip(whole.baked.net.state_dict().values(), parts.baked.net.state_dict().values(), strict=True):
        assert torch.equal(a, b)
