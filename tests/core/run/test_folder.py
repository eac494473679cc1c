"""The folder of a run: one run's alone, whole after any stop, and one line where it can't be read or written."""

from __future__ import annotations

import errno
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tests.core.helpers import Watch, recipe, registry

from condensery import Run
from condensery.errors import ArtifactError, CondenseryError, FileError, NonFiniteNet, UsageError
from condensery.files import write_atomic, write_json
from condensery.nets import build_net
from condensery.run.folder import RunFolder
from condensery.storage import load_tree, save_tree
from condensery_catalogue.running import free_folder
from condensery_plugins.tasks.digits import Digits

STAGES: list[Any] = [{"name": "a", "epochs": 2}, {"methods": ["hinton-kd"], "teacher": "stage:a@epoch=1"}]


def run(out: Path, **options: Any) -> dict[str, Any]:
    return Run(recipe(STAGES), registry(), out=out, **options).execute()


def stopped(out: Path, epoch: int = 2) -> None:
    watch = Watch(stop_after=epoch, where=lambda stage: stage.name == "a")
    with pytest.raises(KeyboardInterrupt):
        run(out, observer=watch)


def one_line(error: BaseException, names: Path) -> str:
    said = str(error)
    assert "\n" not in said
    assert str(names) in said
    return said


# ------------------------------------------------------------------ one run's alone


def test_a_folder_is_one_runs_at_a_time(tmp_path: Path) -> None:
    plain = recipe(STAGES).dump()
    with RunFolder(tmp_path / "o", resume=False).claimed(plain):
        with pytest.raises(UsageError, match="another run is writing there; wait until it ends, or say another --out"):
            run(tmp_path / "o")
        assert list((tmp_path / "o").iterdir()) == []
    run(tmp_path / "o")
    with pytest.raises(UsageError, match="holds a run already"):
        run(tmp_path / "o")


def test_two_commands_at_once_get_two_folders(tmp_path: Path) -> None:
    assert [free_folder(tmp_path / "runs", "x").name for _ in range(3)] == ["x-1", "x-2", "x-3"]
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match=r"file/x-1 can't be written \(Not a directory\); give another folder"):
        free_folder(tmp_path / "file", "x")


# ------------------------------------------------------------------ whole after any stop


def test_a_net_kept_after_the_point_that_a_run_goes_on_from_does_not_count(tmp_path: Path) -> None:
    """As if killed between the net of epoch 1 and that epoch's progress: it is trained, and kept, again."""
    run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "o", observer=Watch(stop_after=1, where=lambda stage: stage.name == "a"))
    (kept,) = (tmp_path / "o").glob("snapshot-*")
    (tmp_path / "o" / "progress.safetensors").unlink()
    save_tree(kept, {"spec": "of another net"})
    run(tmp_path / "o", resume=True)
    for name in ("whole", "o"):
        assert (tmp_path / name / "artifact.safetensors").stat().st_size > 10_000
    assert (tmp_path / "o" / "artifact.safetensors").read_bytes() == (
        tmp_path / "whole" / "artifact.safetensors"
    ).read_bytes()
    assert sorted(p.name for p in (tmp_path / "o").iterdir()) == [
        "artifact.safetensors", "log.jsonl", "recipe.json", "report.json",
    ]  # fmt: skip


def test_a_line_of_the_log_is_written_once(tmp_path: Path) -> None:
    stopped(tmp_path / "o")
    log = tmp_path / "o" / "log.jsonl"
    assert len(log.read_text().splitlines()) == 2
    (tmp_path / "o" / "progress.safetensors").unlink()
    with log.open("a") as file:
        file.write('{"stage": "a", "epo')
    run(tmp_path / "o", resume=True)
    said = [json.loads(line) for line in log.read_text().splitlines()]
    told = [(e["stage"], e.get("epoch")) for e in said]
    assert told == [("a", 1), ("a", 2), ("a", None), ("hinton-kd", 1), ("hinton-kd", None)]


def test_what_a_killed_run_left_half_written_is_swept(tmp_path: Path) -> None:
    stopped(tmp_path / "o")
    left = tmp_path / "o" / ".progress.safetensors.0123456789ab.safetensors"
    left.write_bytes(bytes(1000))
    run(tmp_path / "o", resume=True)
    assert not left.exists()

    old, young = (tmp_path / f".x.json.{n * 12}.json" for n in "ab")
    for path in (old, young):
        path.touch()
    os.utime(old, (0, time.time() - 7200))
    write_json(tmp_path / "x.json", {})
    assert (old.exists(), young.exists()) == (False, True)


# ------------------------------------------------------------------ damage


@pytest.mark.parametrize("how", ["cut", "flipped", "empty", "text"])
def test_a_damaged_file_of_a_run_is_named_with_what_to_do(how: str, tmp_path: Path) -> None:
    stopped(tmp_path / "o")
    for path in sorted((tmp_path / "o").iterdir()):
        whole = path.read_bytes()
        middle = len(whole) // 2
        flipped = whole[:middle] + bytes([whole[middle] ^ 4]) + whole[middle + 1 :]
        path.write_bytes({"cut": whole[:-9], "flipped": flipped, "empty": b"", "text": b"nothing"}[how])
        if path.name == "log.jsonl":
            path.write_bytes(whole)
            continue
        with pytest.raises(CondenseryError) as caught:
            run(tmp_path / "o", resume=True)
        said = one_line(caught.value, tmp_path / "o")
        assert ("holds a run of another recipe" in said) or f"remove {tmp_path / 'o'} to run it again" in said
        path.write_bytes(whole)
    assert run(tmp_path / "o", resume=True)["stages"]


def test_a_changed_figure_in_a_report_is_noticed(tmp_path: Path) -> None:
    run(tmp_path / "o")
    assert run(tmp_path / "o", resume=True) == run(tmp_path / "o", resume=True)
    path = tmp_path / "o" / "report.json"
    text = path.read_text()
    path.write_text(text.replace('"seed": 0', '"seed": 1'))
    assert path.read_text() != text
    with pytest.raises(ArtifactError, match=r"report\.json: damaged .*its checksum doesn't fit.*; remove"):
        run(tmp_path / "o", resume=True)


def test_a_flipped_bit_in_a_tree_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    plain = [True, None, "x", float("inf")]
    save_tree(path, {"a": torch.arange(5.0), "b": plain, "c": torch.zeros(0)})
    assert load_tree(path)["b"] == plain
    whole, refused = path.read_bytes(), []
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        try:
            found = load_tree(path)
        except ArtifactError as error:
            refused.append(one_line(error, path))
        else:  # in the checksum's own name: files that were written before there were any have none
            assert found["b"] == plain
            assert torch.equal(found["a"], torch.arange(5.0))
    assert len(refused) > 0.9 * len(whole)
    assert max(map(len, refused)) < 300


# ------------------------------------------------------------------ disks


def test_a_folder_that_can_not_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path / "file" / "o", Path("/proc/nothing/o")):
        with pytest.raises(FileError, match=r"can't be written .*; give another folder and run it again") as caught:
            run(place)
        one_line(caught.value, place)


def test_a_full_disk_is_one_line_and_the_run_goes_on_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path / "whole")
    replace, left = os.replace, iter(range(4))

    def full(*paths: Any) -> None:
        if next(left, None) is None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(*paths)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(FileError, match=r"can't be written \(No space left on device\); make room on the disk"):
        run(tmp_path / "o")
    monkeypatch.undo()
    assert not list((tmp_path / "o").glob(".*"))
    run(tmp_path / "o", resume=True)
    one, other = (tmp_path / name / "artifact.safetensors" for name in ("o", "whole"))
    assert one.read_bytes() == other.read_bytes()


def test_a_tensor_file_on_a_full_device_is_one_line() -> None:
    with pytest.raises(FileError, match="/dev/full/x"):
        save_tree(Path("/dev/full/x.safetensors"), {"a": torch.zeros(3)})


# ------------------------------------------------------------------ numbers


def test_no_json_file_holds_what_is_no_number(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"x\.json: not written: Out of range float"):
        write_json(tmp_path / "x.json", {"loss": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_a_net_whose_outputs_are_no_numbers_is_no_success(tmp_path: Path) -> None:
    net = build_net(recipe([]).model, Digits().facts, registry(), 0)
    weights = {n: v * 1e30 if v.is_floating_point() else v for n, v in net.state_dict().items()}
    save_file(weights, tmp_path / "w.safetensors")
    model = {"key": "resnet8", "width": 0.5, "weights": str(tmp_path / "w.safetensors")}
    with pytest.raises(NonFiniteNet, match="the net's loss is nan at the recipe's start"):
        Run(recipe([{"epochs": 0}], model=model), registry(), out=tmp_path / "o").execute()
    assert not (tmp_path / "o" / "report.json").exists()


@pytest.mark.parametrize("share", [{}, {"per_class": 2}, {"size": 8}])
def test_a_subset_that_leaves_no_example_is_refused(share: dict[str, int], tmp_path: Path) -> None:
    data = {"subset": {"without": list(range(10)), **share}}
    with pytest.raises(UsageError, match="it leaves no example"):
        Run(recipe([{"epochs": 1}], data=data), registry(), out=tmp_path / "o").execute()
    assert not (tmp_path / "o").exists()


def test_a_clock_that_jumps_makes_no_negative_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(10**9, 0, -1000))
    monkeypatch.setattr(time, "time", lambda: float(next(now)))
    assert all(stage["wall_s"] >= 0 for stage in run(tmp_path / "o")["stages"])


def test_the_time_of_a_run_is_that_of_the_whole_run(tmp_path: Path) -> None:
    report = run(tmp_path / "o")
    epochs = sum(stage["wall_s"] for stage in report["stages"])
    assert 0 <= epochs < report["wall_s"]  # the dry run, measuring and saving take their time too


def test_nothing_is_left_of_a_write_that_failed(tmp_path: Path) -> None:
    def fail(temporary: Path) -> None:
        temporary.write_text("half")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        write_atomic(tmp_path / "x", fail)
    assert list(tmp_path.iterdir()) == []
