"""Each arm's settings are chosen on examples that its training didn't see, and on nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.catalogue.made_up import CARD, KEY, SMALL, TIER, plan

from condensery import Registry, UsageError
from condensery.tasks import Metric
from condensery_catalogue.jobs import Jobs
from condensery_catalogue.judging import judge
from condensery_catalogue.reproduce import print_result, run_arms
from condensery_catalogue.reproduction import card_of
from condensery_catalogue.running import RunOptions
from condensery_catalogue.site.result_pages import sections
from condensery_catalogue.tuning import at_the_end, choose, combinations

REGISTRY = Registry.open()
ACCURACY, ERROR = Metric("figure", "%", higher_is_better=True), Metric("figure", "%", higher_is_better=False)
RATES = {"lr": [0.1, 0.2, 0.3, 0.4]}


def test_a_grid_has_every_combination_in_order() -> None:
    assert combinations({"a": [1, 2], "b": ["x", "y"]}) == [
        {"a": 1, "b": "x"},
        {"a": 1, "b": "y"},
        {"a": 2, "b": "x"},
        {"a": 2, "b": "y"},
    ]


def test_the_first_of_the_best_is_chosen_and_what_diverged_never() -> None:
    found = choose(RATES, ACCURACY, [90.0, 95.0, 95.0, None])
    assert found["chosen"] == {"lr": 0.2}
    assert [entry["score"] for entry in found["tried"]] == [90.0, 95.0, 95.0, None]
    assert choose(RATES, ERROR, [9.0, None, 5.0, 6.0])["chosen"] == {"lr": 0.3}
    assert choose(RATES, ACCURACY, [None] * 4)["chosen"] is None


def test_a_choice_at_the_end_of_its_grid_is_marked() -> None:
    def at(*rates: float | str, chosen: float | str) -> bool:
        return at_the_end({"tried": [{"values": {"lr": rate}} for rate in rates], "chosen": {"lr": chosen}})

    assert at(0.1, 0.01, 1.0, chosen=0.01)
    assert at(0.1, 0.01, 1.0, chosen=1.0)
    assert not at(0.1, 0.01, 1.0, chosen=0.1)
    assert not at(0.1, chosen=0.1)
    assert not at("adam", "sgd", chosen="adam")


def test_fewer_and_more_seeds_than_the_tiers_own() -> None:
    """A tier may leave seeds out for a reason, and it isn't for a number to bring them back."""
    made = plan(tiers={"smoke": {**TIER, "seeds": [1, 2, 4]}})
    for asked, expected in ((None, [1, 2, 4]), (2, [1, 2]), (5, [1, 2, 4, 5, 6])):
        assert Jobs(REGISTRY, made, made.tiers["smoke"], "smoke", Path("out"), asked).seeds == expected


def test_each_arm_runs_with_its_own_choice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At a rate of 1e-9 nothing is learnt, at 0.1 something."""
    monkeypatch.setenv("CONDENSERY_CACHE", str(tmp_path / "cache"))
    made = plan()
    changed = {"model": {"key": "mlp", "hidden": [32]}, "data": {"subset": {"size": 256}}, "train": {"batch_size": 16}}
    arms = {"plain": {"stages": [{"name": "longer", "epochs": 4}]}, "better": {"stages": [{"name": "l", "epochs": 6}]}}
    grid = {"grid": {"train.optimizer.lr": [1e-9, 0.1]}, "held_out": 0.2}
    tier = made.tiers["smoke"].model_copy(update={**grid, "defaults": {**SMALL, **changed}, "arms": arms})
    jobs = Jobs(REGISTRY, made, tier, "smoke", tmp_path / "out", 2)
    tuned, reports = run_arms(jobs, RunOptions(device="cpu", as_json=True))
    assert [tuned[arm]["metric"] for arm in ("plain", "better")] == ["accuracy"] * 2
    assert [tuned[arm]["chosen"] for arm in ("plain", "better")] == [{"train.optimizer.lr": 0.1}] * 2
    for said in tuned.values():
        low, high = (entry["score"] for entry in said["tried"])
        assert low < high
    for found in reports.values():
        assert [run["recipe"]["train"]["optimizer"]["lr"] for run in found] == [0.1, 0.1]
        assert [run["recipe"].get("validation") for run in found] == [None, None]


def test_an_arm_that_follows_has_the_values_of_another_and_plays_the_seeds_that_are_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of three arms one tries two rates; the two others get what it chose, one of them with the first seed alone."""
    monkeypatch.setenv("CONDENSERY_CACHE", str(tmp_path / "cache"))
    stages = {"stages": [{"name": "longer"}]}
    more = {"arms": dict.fromkeys(("wide-2", "wide-4", "still"), stages), "grid": {"train.optimizer.lr": [1e-9, 0.1]}}
    more |= {"follows": {"wide-2": ["wide-4", "st*"]}, "once": ["*-4"]}
    made = plan(tiers={"smoke": {**TIER, **more, "seeds": [3, 4]}}, compare=[])
    jobs = Jobs(REGISTRY, made, made.tiers["smoke"], "smoke", tmp_path / "out")
    trials, played = [j for j in jobs if j.trial is not None], [(j.seed, j.arm) for j in jobs if j.trial is None]
    assert [(j.arm, j.seed, j.trial) for j in trials] == [("wide-2", 3, 0), ("wide-2", 3, 1)]
    assert played == [(3, "wide-2"), (3, "wide-4"), (3, "still"), (4, "wide-2"), (4, "still")]
    assert not jobs.is_ready(jobs.job("still", 4))  # it waits for the trials of the arm that it follows

    tuned, reports = run_arms(jobs, RunOptions(device="cpu", as_json=True))
    assert list(tuned) == ["wide-2"]
    rates = {arm: [run["recipe"]["train"]["optimizer"]["lr"] for run in found] for arm, found in reports.items()}
    best = tuned["wide-2"]["chosen"]["train.optimizer.lr"]
    assert rates == {"wide-2": [best] * 2, "wide-4": [best], "still": [best] * 2}
    assert judge(made, made.tiers["smoke"], "smoke", {}, reports, tuned)["seeds"] == [3, 4]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"follows": {"plain": ["beter"]}}, "no arm is called 'beter'"),
        ({"follows": {"plane": ["better"]}}, "no arm is called 'plane'"),
        ({"once": ["*-4"]}, r"no arm is called '\*-4'"),
        (
            {"follows": {"plain": ["better"], "better": ["plain"]}},
            "'better' follows 'plain', so that no arm can",
        ),
    ],
)
def test_what_follows_and_plays_once_is_an_arm(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        plan(tiers={"smoke": {**TIER, **wrong}})


def test_a_claim_of_another_card_stands_beside_the_own_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second card's claim is found under both names together, and a card that isn't there is named."""
    other = {"claims": [{"id": "error", "value": {"value": 3}}]}
    monkeypatch.setattr(REGISTRY, "card", {KEY: {"claims": [{"id": "error"}]}, "other": other}.get)
    made = plan(compare=[{"claim": "other:error", "metric": "m", "arm": "plain"}])
    assert [c["id"] for c in card_of(REGISTRY, made)["claims"]] == ["error", "other:error"]
    assert [c["id"] for c in other["claims"]] == ["error"]
    with pytest.raises(UsageError, match="it compares a claim of 'nobody', which has no card"):
        card_of(REGISTRY, plan(compare=[{"claim": "nobody:error", "metric": "m", "arm": "plain"}]))


def test_an_arm_that_diverges_costs_the_others_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One arm's own rate lets every trial diverge, so that it has no values to run with."""
    monkeypatch.setenv("CONDENSERY_CACHE", str(tmp_path / "cache"))
    wild = {"name": "wild", "train": {"optimizer": {"lr": 1e30}}}
    arms = {"plain": {"stages": [{"name": "longer"}]}, "better": {"stages": [wild]}}
    made = plan(tiers={"smoke": {**TIER, "arms": arms, "grid": {"train.optimizer.lr": [0.01, 0.1]}}})
    jobs = Jobs(REGISTRY, made, made.tiers["smoke"], "smoke", tmp_path / "out", 2)
    tuned, reports = run_arms(jobs, RunOptions(device="cpu"))
    assert "seed 1, better diverged: every setting of the grid diverged\n" in capsys.readouterr().err
    assert tuned["better"]["chosen"] is None
    assert tuned["plain"]["chosen"] is not None
    assert run_arms(jobs, RunOptions(device="cpu", as_json=True)) == (tuned, reports)

    result = judge(made, jobs.chosen, "smoke", CARD, reports, tuned)
    why = "every setting of the grid diverged"
    assert result["diverged"] == {"better": {"seeds": [0, 1], "of": 2, "why": why}}
    assert (list(result["arms"]), list(result["recipes"]), result["comparisons"]) == (["plain"], ["plain"], [])
    assert sections(result)["Diverged"] == f"- `better`, diverged in 2 of 2 seeds: {why}"
    print_result(result)
    assert f"better, diverged in 2 of 2 seeds: {why}" in capsys.readouterr().out
