"""Filling another machine: parcels of a given size that unpack to code which runs there with nothing installed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from condensery_catalogue.travel import Parcels, main

ROOT = Path(__file__).parents[2]


def test_parcels_are_full_but_for_the_last(tmp_path: Path) -> None:
    parcels = Parcels(tmp_path, 4)
    parcels.write(b"abcdefghij")
    parcels.close()
    assert [path.read_bytes() for path in sorted(tmp_path.iterdir())] == [b"abcd", b"efgh", b"ij"]


LACKING = "twn-mnist"
"""A reproduction on MNIST whose paper tier lacks its result: data go along only where something is left to run."""


@pytest.fixture
def packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    data = tmp_path / "data"
    for name in ("mnist", "unused"):
        (data / name).mkdir(parents=True)
        (data / name / "file").write_bytes(bytes(1000))
    monkeypatch.setenv("CONDENSERY_DATA", str(data))
    monkeypatch.chdir(ROOT)
    assert main([str(tmp_path / "there"), LACKING, "--tier", "paper", "--size", "1"]) == 0
    return tmp_path / "there"


def test_it_runs_there_without_being_installed(packed: Path) -> None:
    sizes = [path.stat().st_size for path in sorted(packed.glob("parcel-*"))]
    assert len(sizes) > 2
    assert {*sizes[:-1]} == {2**20}

    subprocess.run(["sh", "unpack.sh"], cwd=packed, check=True)
    assert sorted(path.name for path in (packed / "data").iterdir()) == ["mnist"]

    # -S leaves out the editable install of this project; its other packages are named by their folder alone.
    paths = [packed / "code" / name for name in ("core", "plugins", "catalogue", "reproductions")]
    site = next(path for path in map(Path, sys.path) if path.name == "site-packages")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [*paths, packed / "meta", site]))}
    code = "import condensery; from condensery import Registry; r = Registry.open(); print(condensery.__file__); r.load"
    code += "('methods', 'hinton-kd'); print(len(r.keys('recipes')), r.problems)"
    command = [sys.executable, "-S", "-c", code]
    done = subprocess.run(command, cwd=packed, env=environment, capture_output=True, text=True, check=True)
    file, recipes = done.stdout.splitlines()
    assert Path(file).is_relative_to(packed)
    assert int(recipes.split()[0]) > 20
    assert recipes.endswith("[]")


def test_the_queue_there_is_what_was_packed(packed: Path, tmp_path: Path) -> None:
    """Other reproductions lack a result too, but their data stayed here."""
    shim = tmp_path / "bin" / "python3"
    shim.parent.mkdir()
    shim.write_text('#!/bin/sh\necho "$@"\n')
    shim.chmod(0o755)
    environment = {**os.environ, "PATH": f"{shim.parent}:{os.environ['PATH']}"}
    command = ["sh", "go.sh", "--budget", "25m"]
    said = subprocess.run(command, cwd=packed, env=environment, capture_output=True, text=True, check=True).stdout
    assert said.endswith(f"reproduce --pending {LACKING} --tier=paper --out runs --budget 25m\n")


def test_a_folder_with_something_in_it_is_refused(packed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(packed), "hinton-kd"]) == 2
    assert capsys.readouterr().err.startswith("error: ")
