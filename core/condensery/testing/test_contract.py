"""What every method must do on every kind of network: it runs and leaves an artifact, or it says why it can't."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch

from condensery.contract import Registry
from condensery.errors import NotApplicable, PluginError
from condensery.recipe import Recipe
from condensery.testing.cases import STAGE, Case
from condensery.testing.checks import check_artifact, different_tensors, hooks_left, outputs_of, stored_outputs
from condensery.testing.runs import Finished, L2Decay, Reference, play, play_killed

pytest_plugins = ["condensery.testing.plugin"]


@pytest.fixture(scope="session")
def registry() -> Registry:
    """Open all installed plugins, and the method that others are tried beside."""
    return Registry.open([("contract-suite", Reference())])


@pytest.fixture(scope="session")
def fresh_process() -> Iterator[Executor]:
    """Start a process that imports everything anew and has trained nothing."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        yield process


@pytest.fixture(scope="module")
def finished(contract_case: Case, registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Run two epochs of the method to the end; the tests of one case share them."""
    return play(contract_case.recipe(registry), registry, tmp_path_factory.mktemp("run") / "run")


def refusal_of(recipe: Recipe, registry: Registry, folder: Path) -> NotApplicable | None:
    """Return why a recipe can't run, or ``None`` if it did."""
    try:
        play(recipe, registry, folder)
    except NotApplicable as refusal:
        return refusal
    return None


def test_it_refuses_what_its_card_does_not_name(contract_refusal: Case, registry: Registry, tmp_path: Path) -> None:
    """Where a card doesn't name a network, the method says what it lacks there, and nothing is written."""
    case = contract_refusal
    refusal = refusal_of(case.recipe(registry), registry, tmp_path / "run")
    assert refusal is not None, f"{case.key} runs on a {case.network}: name it in the card, or raise NotApplicable"
    assert refusal.method == case.key
    assert not (tmp_path / "run").exists()

    reason = case.contract.refuses.get(case.network)
    assert reason is None or reason.search(refusal.reason), refusal.reason


def test_it_runs_and_leaves_nothing_behind(finished: Finished) -> None:
    """The net still trains, all its numbers are finite, and only the transforms that stay have hooks."""
    assert hooks_left(finished.student) == []
    assert any(parameter.requires_grad for parameter in finished.student.parameters())
    for name, value in finished.student.state_dict().items():
        assert torch.isfinite(value).all(), name


def test_its_artifact_gives_the_same_outputs(finished: Finished, registry: Registry) -> None:
    """Bit for bit those of the baked net; each tensor and the file are as large as estimated."""
    check_artifact(finished, registry)


def test_its_artifact_loads_in_a_fresh_process(finished: Finished, fresh_process: Executor) -> None:
    """The installed plugins are enough to read it: nothing is left over from the training process."""
    assert finished.run.baked is not None
    there = fresh_process.submit(stored_outputs, finished.folder / "artifact.safetensors").result()
    assert there == outputs_of(finished.run.task, finished.run.baked.net).tolist()


@pytest.mark.dear
def test_a_killed_run_ends_as_if_it_had_not_been(
    contract_case: Case, finished: Finished, registry: Registry, tmp_path: Path
) -> None:
    """Killed after its first epoch and resumed, it comes to the same bits; so a run repeats, too."""
    recipe = contract_case.recipe(registry)
    play_killed(recipe, registry, tmp_path / "run", STAGE)
    resumed = play(recipe, registry, tmp_path / "run", resume=True)
    assert different_tensors(finished.student, resumed.student) == []

    mine, theirs = finished.run.stages[-1], resumed.run.stages[-1]
    assert mine["report"] == theirs["report"]
    assert [epoch["terms"] for epoch in mine["history"]] == [epoch["terms"] for epoch in theirs["history"]]


@pytest.mark.dear
def test_it_works_beside_another(contract_case: Case, registry: Registry, tmp_path: Path) -> None:
    """The other method acts on the student at every step, and on no other player."""
    done = play(contract_case.recipe(registry, L2Decay.key), registry, tmp_path / "run")
    entry = done.run.stages[-1]
    assert entry["report"][f"{L2Decay.key}.steps_count"] == done.stage.step > 0

    terms = entry["history"][0]["terms"]
    assert f"student.{L2Decay.key}.l2" in terms
    assert {term.partition(".")[0] for term in terms} == {player.name for player in done.stage.training}


@pytest.mark.dear
def test_it_works_beside_itself(contract_case: Case, registry: Registry, tmp_path: Path) -> None:
    """A second copy acts too, or is refused by name: the first took what it needs, has its hook, or left nothing."""
    second, said = f"{contract_case.key}#2", ""
    try:
        done = play(contract_case.recipe(registry, contract_case.key), registry, tmp_path / "run")
    except (NotApplicable, PluginError) as refusal:
        said = str(refusal)

    once = contract_case.contract.once
    if contract_case.refuses_itself(registry):
        assert second in said
    elif once is not None and once.search(said):
        assert contract_case.key in said
    elif said:
        assert f"and {second} both implement" in said  # a hook that only one method may have
    else:
        assert list(done.stage.manager.methods) == [contract_case.key, second]
