from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from condensery.tasks import Hub, Task


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for all tests of this folder: what is decoded once is decoded for all."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _cache(shared_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONDENSERY_CACHE", str(shared_cache))


@pytest.fixture
def own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Point the data folder and the cache at empty folders of this test; returns the data folder."""
    monkeypatch.setenv("CONDENSERY_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("CONDENSERY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "data"


@pytest.fixture
def need_data() -> Callable[[str], Path]:
    """Return the folder of a real data set, or skip."""

    def need(name: str) -> Path:
        root = os.environ.get("CONDENSERY_DATA")
        if not root or not (Path(root) / name).is_dir():
            pytest.skip(f"needs the data set {name!r} in $CONDENSERY_DATA")
        return Path(root) / name

    return need


Offer = Callable[[type[Task], Mapping[str, Mapping[str, Sequence[Any]]]], None]


@pytest.fixture
def offer(own_places: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Offer:
    """Return what puts columns of a task's data on a hub of this test: by file, then by name.

    Neither a network nor pyarrow is needed: the files are JSON, and images are named by how they were drawn.
    """
    parquet = types.SimpleNamespace(read_table=lambda path: types.SimpleNamespace(to_pydict=lambda: _columns(path)))
    monkeypatch.setitem(sys.modules, "pyarrow", types.SimpleNamespace(parquet=parquet))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(Hub, "fetch", lambda self, file: tmp_path / f"{file.replace('/', '-')}.json")

    def put(task: type[Task], files: Mapping[str, Mapping[str, Sequence[Any]]]) -> None:
        pins = {}
        for file, columns in files.items():
            content = json.dumps(columns).encode()
            (tmp_path / f"{file.replace('/', '-')}.json").write_bytes(content)
            pins[file] = hashlib.sha256(content).hexdigest()
        assert task.data_set is not None
        assert task.data_set.hub is not None
        hub = dataclasses.replace(task.data_set.hub, files=pins)
        monkeypatch.setattr(task, "data_set", dataclasses.replace(task.data_set, hub=hub))

    return put


def _columns(path: Path) -> dict[str, list[Any]]:
    """Return the columns of a file; what is a list of numbers is drawn as a PNG."""
    columns: dict[str, list[Any]] = json.loads(path.read_bytes())
    return {name: [_png(cell) if isinstance(cell, list) else cell for cell in cells] for name, cells in columns.items()}


def _png(pixels: list[Any]) -> dict[str, bytes]:
    drawn = io.BytesIO()
    Image.fromarray(np.array(pixels, np.uint8)).save(drawn, "png")
    return {"bytes": drawn.getvalue()}
