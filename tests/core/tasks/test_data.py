from __future__ import annotations

import gzip
import hashlib
import socket
import sys
import threading
import time
import types
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest

from condensery.errors import UsageError
from condensery.files import cache_dir, write_atomic
from condensery.tasks import (
    DataSet,
    Hub,
    check_content,
    check_sha256,
    hub_reachable,
    is_stored,
    read_gzip,
    stored_arrays,
)

NOWHERE = "http://127.0.0.1:9"
"""Nothing listens on the discard port."""
HUB = Hub("owner/set", "0123456789abcdef" * 2 + "01234567", {"plain/train": hashlib.sha256(b"rows").hexdigest()})


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CONDENSERY_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("CONDENSERY_CACHE", str(tmp_path / "cache"))
    for name in ("HF_HUB_OFFLINE", "HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def listener() -> Iterator[str]:
    """Address of something that takes connections."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def put(path: Path, content: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_the_data_folder_comes_before_the_cache_and_must_be_whole(places: Path) -> None:
    data = DataSet("set", {"a": "", "b": ""})
    assert data.find() is None
    for name in ("a", "b"):
        put(places / "cache" / "data" / "set" / name)
    put(places / "data" / "set" / "a")
    assert data.find() == places / "cache" / "data" / "set"
    put(places / "data" / "set" / "b")
    assert data.find() == places / "data" / "set"


def test_the_cache_is_where_the_user_says(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_dir() == places / "cache"
    monkeypatch.delenv("CONDENSERY_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/some/cache")
    assert cache_dir() == Path("/some/cache/condensery")


def test_missing_data_names_files_and_places(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = str(DataSet("set", dict.fromkeys("abcd", ""), HUB).missing("why"))
    for part in ("'set'", "(a, b, c, ...)", "$CONDENSERY_DATA/set", f"{places}/cache/data/set", "'owner/set' (why)"):
        assert part in text
    monkeypatch.delenv("CONDENSERY_DATA")
    assert "$CONDENSERY_DATA (not set)" in str(DataSet("set", {"a": ""}).missing())


def test_a_failed_write_leaves_the_old_file_and_nothing_else(places: Path) -> None:
    path = put(places / "folder" / "file.txt", b"old")

    def fail(temporary: Path) -> None:
        temporary.write_bytes(b"half")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_atomic(path, fail)
    assert path.read_bytes() == b"old"
    write_atomic(path, lambda temporary: temporary.write_bytes(b"new"))
    assert path.read_bytes() == b"new"
    assert [p.name for p in path.parent.iterdir()] == ["file.txt"]


def test_digests(places: Path) -> None:
    path = put(places / "f", b"content")
    check_sha256(path, {"f": hashlib.sha256(b"content").hexdigest()})
    check_sha256(path, {"other": "0"})
    with pytest.raises(UsageError, match=f"{path}: damaged or another version"):
        check_sha256(path, {"f": hashlib.sha256(b"Content").hexdigest()})


def test_gzip_is_pinned_by_its_content(places: Path) -> None:
    pins = {"f.gz": hashlib.sha256(b"content").hexdigest()}
    for level in (1, 9):
        assert read_gzip(put(places / "f.gz", gzip.compress(b"content", level)), pins) == b"content"
    packed = gzip.compress(b"content")
    for broken in (packed[:-3], packed[:12] + b"\xff\xff" + packed[14:], b"plain", gzip.compress(b"Content"), b""):
        with pytest.raises(UsageError, match=r"f\.gz: damaged"):
            read_gzip(put(places / "f.gz", broken), pins)


def test_arrays_are_built_once(places: Path) -> None:
    calls = []

    def build() -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.int64]]]:
        calls.append(1)
        return {"a": np.arange(6).reshape(2, 3), "b": np.array([7])}

    assert not is_stored("set", ["a", "b"])
    for _ in range(2):
        arrays = stored_arrays("set", ["a", "b"], build)
        assert arrays["a"].tolist() == [[0, 1, 2], [3, 4, 5]]
        assert arrays["b"].tolist() == [7]
        arrays["a"][0, 0] = 99  # the file is not changed by it
    assert len(calls) == 1
    assert is_stored("set", ["a", "b"])
    assert not is_stored("set", ["a", "c"])


def test_what_is_damaged_in_the_cache_is_made_again(places: Path) -> None:
    stored_arrays("set", ["a"], lambda: {"a": np.arange(1000)})
    folder = places / "cache" / "decoded" / "set"
    whole = (folder / "a.npy").read_bytes()
    one_bit = bytearray(whole)
    one_bit[500] ^= 1
    assert is_stored("set", ["a"])
    for name, broken in (("a.npy", whole[:300]), ("a.npy", one_bit), ("sums.json", b"{"), ("sums.json", b"[1]")):
        (folder / name).write_bytes(broken)
        assert not is_stored("set", ["a"])
        assert stored_arrays("set", ["a"], lambda: {"a": np.arange(1000)})["a"].tolist() == list(range(1000))
        assert (folder / "a.npy").read_bytes() == whole


def test_a_small_gzip_that_is_huge_is_refused(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONDENSERY_MAX_MB", "8")
    path = put(places / "f.gz", gzip.compress(bytes(2_000_000)))
    assert len(read_gzip(path, {})) == 2_000_000
    put(path, gzip.compress(bytes(1_500_000)) * 2)
    with pytest.raises(UsageError, match=r"f\.gz: damaged or not gzip \(it unpacks to more than 2,000,000 bytes; set"):
        read_gzip(path, {})


def test_a_cache_that_can_not_be_written_is_named(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONDENSERY_CACHE", str(put(places / "a-file")))
    with pytest.raises(UsageError, match=r"can't be written .*set CONDENSERY_CACHE"):
        stored_arrays("set", ["a"], lambda: {"a": np.arange(3)})


def test_the_hub_is_reached_directly_or_through_a_proxy(listener: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", f"http://{listener}")
    assert hub_reachable()
    monkeypatch.setenv("HF_ENDPOINT", NOWHERE)
    assert not hub_reachable()
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.invalid")
    monkeypatch.setenv("http_proxy", f"http://{listener}")
    assert hub_reachable()
    monkeypatch.setenv("http_proxy", NOWHERE)
    assert not hub_reachable()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert hub_reachable(), "offline mode is left to the hub's own cache"


def test_a_name_lookup_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: release.wait(20) and [])
    started = time.monotonic()
    assert not hub_reachable(timeout=0.2)
    assert time.monotonic() - started < 2
    release.set()


def test_the_hub_without_its_package_or_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    data = DataSet("set", {"a": ""}, HUB)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UsageError, match=r"'owner/set' \(needs the package 'pyarrow': pip install"):
        data.columns("plain/train")
    monkeypatch.setitem(sys.modules, "pyarrow", types.SimpleNamespace(parquet=None))
    monkeypatch.setenv("HF_ENDPOINT", NOWHERE)
    with pytest.raises(UsageError, match=r"'owner/set' \(can't be reached\)"):
        data.columns("plain/train")


@pytest.mark.parametrize("content", [b"rows", b"Rows"])
def test_the_hubs_file_is_asked_for_by_revision_and_must_be_the_pinned_one(
    content: bytes, places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, read = [], []

    def download(*words: str, **named: str) -> str:
        asked.append((*words, named))
        return str(put(places / "train-00000-of-00001.parquet", content))

    def read_table(path: Path) -> object:
        read.append(path.read_bytes())
        return types.SimpleNamespace(to_pydict=lambda: {"label": [1]})

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    parquet = types.SimpleNamespace(read_table=read_table)
    monkeypatch.setitem(sys.modules, "pyarrow", types.SimpleNamespace(parquet=parquet))

    data = DataSet("set", {"a": ""}, HUB)
    if content == b"rows":
        assert data.columns("plain/train") == {"label": [1]}
    else:
        with pytest.raises(UsageError, match=r"train-00000-of-00001\.parquet: damaged or another version"):
            data.columns("plain/train")
        assert read == [], "what isn't pinned is not parsed"
    how = {"repo_type": "dataset", "revision": HUB.revision}
    assert asked == [("owner/set", "plain/train-00000-of-00001.parquet", how)]


def test_content_is_compared_with_its_pin() -> None:
    check_content("it", b"content", hashlib.sha256(b"content").hexdigest())
    with pytest.raises(UsageError, match=r"^it: damaged or another version"):
        check_content("it", b"content", hashlib.sha256(b"Content").hexdigest())
