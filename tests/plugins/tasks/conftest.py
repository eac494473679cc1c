from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest


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
