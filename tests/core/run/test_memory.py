from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from condensery import Registry, Run, UsageError
from condensery.files import cache_dir
from condensery.recipe import parse_recipe
from condensery.run.memory import LIMIT, Memory, room
from condensery.tasks import Batch

RECIPE = {
    "task": "digits",
    "model": {"key": "mlp", "hidden": [64, 64]},
    "data": {"subset": {"size": 64}},
    "base": {"epochs": 1, "batch_size": 32},
    "train": {"epochs": 3, "batch_size": 32, "optimizer": {"lr": 0.05}},
    "stages": [{"methods": ["hinton-kd"], "teacher": "original", "student": {"key": "mlp", "hidden": [16]}}],
}


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONDENSERY_CACHE", str(tmp_path / "cache"))


def answers() -> list[Path]:
    return sorted((cache_dir() / "answers").glob("*.safetensors"))


def run(folder: Path, **changes: Any) -> Run:
    made = Run(parse_recipe(RECIPE | changes), Registry.open(), out=folder, device="cpu")
    made.execute()
    return made


def test_a_run_with_kept_answers_leaves_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = []
    for folder, megabytes in (("without", "0"), ("filling", "1"), ("filled", "1")):
        monkeypatch.setenv(LIMIT, megabytes)
        run(tmp_path / folder)
        files.append((tmp_path / folder / "artifact.safetensors").read_bytes())
        assert len(answers()) == (megabytes == "1")
    assert files[0] == files[1] == files[2]


def test_a_teacher_is_asked_for_each_example_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three epochs of two batches: two are met anew, one is asked as a proof, three are known."""
    monkeypatch.setenv(LIMIT, "1")
    kept = []
    monkeypatch.setattr(Memory, "save", lambda self: kept.append((self.asked, self.known)))
    run(tmp_path / "run")
    assert kept[-1] == (6 * 32, 3 * 32)


def test_another_teacher_has_a_memory_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LIMIT, "1")
    run(tmp_path / "one")
    run(tmp_path / "other", seed=1)
    assert len(answers()) == 2


def test_a_teacher_that_trains_is_asked_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LIMIT, "1")
    stage = RECIPE["stages"][0]  # type: ignore[index]
    run(tmp_path / "trained", stages=[{**stage, "players": {"teacher": {"train": True}}}])
    assert not answers()


def test_examples_are_known_in_any_order_of_a_batch_of_the_same_size() -> None:
    memory, inputs = Memory({}, 1000), torch.arange(8.0).view(4, 2)
    order = torch.tensor([2, 0, 3, 1])
    for asked in (inputs, inputs[order]):  # met, and proved
        assert torch.equal(memory.answer(Batch(asked), partial(torch.mul, asked, 2)), asked * 2)
    assert torch.equal(memory.answer(Batch(inputs), pytest.fail), inputs * 2)
    assert memory.known == 4

    alone = memory.answer(Batch(inputs[:1]), lambda: torch.full((1, 2), 7.0))
    assert alone.tolist() == [[7.0, 7.0]]  # in a batch of one the net may round otherwise


def test_answers_that_depend_on_the_rest_of_the_batch_are_not_kept() -> None:
    memory, inputs = Memory({}, 1000), torch.arange(4.0).view(2, 2)
    for asked in (inputs, inputs.flip(0), inputs, inputs.flip(0)):
        assert torch.equal(memory.answer(Batch(asked), partial(torch.sub, asked, asked[0])), asked - asked[0])
    assert memory.known == 0


def test_what_was_kept_is_read_again_and_the_longest_unused_goes(tmp_path: Path) -> None:
    inputs = torch.arange(8.0).view(4, 2)
    first = Memory({"net": 1}, 10_000)
    first.answer(Batch(inputs), lambda: inputs * 2)
    first.save()

    again = Memory({"net": 1}, 10_000)
    again.answer(Batch(inputs), lambda: inputs * 2)
    assert torch.equal(again.answer(Batch(inputs), pytest.fail), inputs * 2)

    other = Memory({"net": 2}, first.path.stat().st_size + 1)
    other.answer(Batch(inputs), lambda: inputs * 3)
    other.save()
    assert answers() == [other.path]


def test_no_more_is_kept_than_there_is_room_for() -> None:
    memory = Memory({}, 4 * 2 * 4)  # four examples of two floats
    for start in (0.0, 10.0, 0.0, 0.0, 10.0):
        inputs = start + torch.arange(8.0).view(4, 2)
        assert torch.equal(memory.answer(Batch(inputs), partial(torch.mul, inputs, 2)), inputs * 2)
    assert memory.known == 4


@pytest.mark.parametrize("given", ["-1", "much", "1.5"])
def test_room_that_is_no_number_is_refused(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LIMIT, given)
    with pytest.raises(UsageError, match=LIMIT):
        room()
