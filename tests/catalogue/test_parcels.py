"""Carrying results: what is packed, that hashes are checked, and that nothing is overwritten."""

from __future__ import annotations

import json
import zipfile
from hashlib import sha256
from pathlib import Path

import pytest

from condensery.errors import ArtifactError, UsageError
from condensery.files import json_text
from condensery_catalogue.parcels import LIST, export_results, import_results


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    folder = tmp_path / "runs" / "hinton-kd" / "desk" / "seed0" / "alone"
    folder.mkdir(parents=True)
    (folder / "report.json").write_text('{"seed": 0}')
    (folder / "net.safetensors").write_bytes(b"large")
    return tmp_path / "runs"


def test_reports_travel_and_checkpoints_stay(finished: Path, tmp_path: Path) -> None:
    assert export_results(finished, tmp_path / "out.zip") == 1
    assert import_results(tmp_path / "out.zip", tmp_path / "there") == (1, 0)
    assert (tmp_path / "there" / "hinton-kd/desk/seed0/alone/report.json").read_text() == '{"seed": 0}'
    assert import_results(tmp_path / "out.zip", tmp_path / "there") == (0, 1)
    assert not list((tmp_path / "there").rglob("*.safetensors"))


def test_a_file_that_differs_is_named_and_nothing_is_written(finished: Path, tmp_path: Path) -> None:
    (finished / "result.json").write_text("{}")
    export_results(finished, tmp_path / "out.zip")
    there = tmp_path / "there"
    (there / "hinton-kd/desk/seed0/alone").mkdir(parents=True)
    (there / "hinton-kd/desk/seed0/alone/report.json").write_text('{"seed": 1}')
    with pytest.raises(UsageError, match=r"report\.json is there already and differs"):
        import_results(tmp_path / "out.zip", there)
    assert not (there / "result.json").exists()


FOLDED = {"a/report.json": b"{}", "a/report.json/report.json": b"{}"}
EDITED = json_text({"seed": 0, "accuracy": 90.5}).replace("90.5", "99.5").encode()


def test_an_edited_report_is_not_exported(finished: Path, tmp_path: Path) -> None:
    (finished / "result.json").write_bytes(EDITED)
    with pytest.raises(ArtifactError, match=r"result\.json: damaged .*its checksum doesn't fit"):
        export_results(finished, tmp_path / "out.zip")
    assert not (tmp_path / "out.zip").exists()


def test_what_would_fill_the_memory_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A zip of a megabyte may claim to hold gigabytes: what it lists is added up before a file is read."""
    monkeypatch.setattr("condensery_catalogue.parcels.ALL", 1000)
    files = {f"{number}/report.json": b" " * 400 for number in range(3)}
    source = _packed(tmp_path / "in.zip", files, dict.fromkeys(files, "0"))
    with pytest.raises(ArtifactError, match="its files have more than 1000 bytes"):
        import_results(source, tmp_path / "there")


def _packed(path: Path, files: dict[str, bytes], listed: object) -> Path:
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr(LIST, json.dumps(listed))
        for name, data in files.items():
            packed.writestr(name, data)
    return path


@pytest.mark.parametrize(
    ("files", "listed", "says"),
    [
        ({"report.json": b"{}"}, {"report.json": "0" * 64}, "has changed"),
        ({"report.json": b"{}"}, {}, "not those that it lists"),
        ({"../report.json": b"{}"}, {"../report.json": "0"}, "is no file of an export"),
        ({"/report.json": b"{}"}, {"/report.json": "0"}, "is no file of an export"),
        ({"evil.py": b""}, {"evil.py": "0"}, "is no file of an export"),
        ({f"{'a' * 300}/report.json": b"{}"}, {f"{'a' * 300}/report.json": "0"}, "is no file of an export"),
        (FOLDED, dict.fromkeys(FOLDED, "0"), "'a/report.json/report.json' is no file of an export"),
        ({}, [], "not those that it lists"),
        ({"report.json": EDITED}, {"report.json": sha256(EDITED).hexdigest()}, "its checksum doesn't fit"),
    ],
)
def test_a_strangers_file_is_refused_in_one_line(
    files: dict[str, bytes], listed: object, says: str, tmp_path: Path
) -> None:
    with pytest.raises(ArtifactError, match=says) as refused:
        import_results(_packed(tmp_path / "in.zip", files, listed), tmp_path / "there")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "there").exists()


def test_what_is_no_zip_is_refused(tmp_path: Path) -> None:
    (tmp_path / "in.zip").write_text("no")
    with pytest.raises(ArtifactError, match="not an export"):
        import_results(tmp_path / "in.zip", tmp_path / "there")


def test_an_empty_folder_has_nothing_to_export(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no reports"):
        export_results(tmp_path, tmp_path / "out.zip")
