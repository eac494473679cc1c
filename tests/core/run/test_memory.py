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


def test_a_teacher_is_asked_for_each_batch_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three epochs of two batches, each in an order of its own; another run with this seed meets the same six."""
    monkeypatch.setenv(LIMIT, "1")
    kept = []
    save = Memory.save

    def counted(self: Memory) -> None:
        kept.append((self.asked, self.known))
        save(self)

    monkeypatch.setattr(Memory, "save", counted)
    train = {**RECIPE["train"], "optimizer": {"lr": 0.1}}  # type: ignore[dict-item]
    run(tmp_path / "one")
    run(tmp_path / "other", train=train)
    assert kept == [(2, 0), (4, 0), (6, 0), (2, 2), (4, 4), (6, 6)]


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


def test_a_batch_is_known_as_a_whole_and_another_order_is_another_batch() -> None:
    memory, inputs = Memory({}, 1000), torch.arange(8.0).view(4, 2)
    met = Batch(inputs, torch.tensor([0, 1, 2, 3]))
    assert torch.equal(memory.answer(met, lambda: inputs * 2), inputs * 2)
    assert torch.equal(memory.answer(met, pytest.fail), inputs * 2)
    for other in (Batch(inputs.flip(0), met.labels), Batch(inputs[:3], met.labels), Batch(inputs, met.labels + 1)):
        assert memory.answer(other, lambda: torch.tensor(7.0)) == 7
    assert (memory.asked, memory.known) == (5, 1)


def test_outputs_of_several_tensors_come_back_as_they_were() -> None:
    memory, batch = Memory({}, 1000), Batch(torch.zeros(2, 1))
    given = {"scores": torch.ones(2, 3), "boxes": (torch.zeros(2, 4), [torch.ones(1), torch.ones(5)])}
    memory.answer(batch, lambda: given)
    memory.save()
    for again in (memory, Memory({}, 1000)):
        found = again.answer(batch, pytest.fail)
        assert isinstance(found["boxes"], tuple)
        assert torch.equal(found["scores"], given["scores"])  # type: ignore[arg-type]
        assert [len(part) for part in found["boxes"][1]] == [1, 5]


def test_what_was_kept_is_read_again_and_the_longest_unused_goes() -> None:
    batch = Batch(torch.arange(8.0).view(4, 2))
    first = Memory({"net": 1}, 10_000)
    first.answer(batch, lambda: batch.inputs * 2)
    first.save()
    assert torch.equal(Memory({"net": 1}, 10_000).answer(batch, pytest.fail), batch.inputs * 2)

    other = Memory({"net": 2}, first.path.stat().st_size + 1)
    other.answer(batch, lambda: batch.inputs * 3)
    other.save()
    assert answers() == [other.path]


def test_no_more_is_kept_than_there_is_room_for() -> None:
    memory = Memory({}, 4 * 2 * 4)  # four examples of two floats
    for start in (0.0, 10.0, 0.0, 10.0):
        inputs = start + torch.arange(8.0).view(4, 2)
        assert torch.equal(memory.answer(Batch(inputs), partial(torch.mul, inputs, 2)), inputs * 2)
    assert memory.known == 1


def test_outputs_that_a_file_would_not_give_back_as_they_lie_are_not_kept() -> None:
    memory, batch = Memory({}, 1000), Batch(torch.zeros(2, 1))
    for given in (torch.ones(2, 3).T, {"scores": torch.ones(2), "note": "none"}, {1: torch.ones(2)}):
        memory.answer(batch, lambda given=given: given)  # type: ignore[misc]
    assert memory.known == 0


@pytest.mark.parametrize("given", ["-1", "much", "1.5"])
def test_room_that_is_no_number_is_refused(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LIMIT, given)
    with pytest.raises(UsageError, match=LIMIT):
        room()
