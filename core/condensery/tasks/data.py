"""Where a data set comes from: one order of places, one error that names them all."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from condensery.errors import FileError, UsageError
from condensery.files import cache_dir, cached_json, inflate, size_limit, write_atomic, write_json
from condensery.tasks.hub import Hub, hub_reachable

Arrays = Mapping[str, NDArray[Any]]
SUMS = "sums.json"
FOLDER = "CONDENSERY_DATA"
"""Environment variable: the folder that data sets' folders are looked for in first."""
LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class DataSet:
    """A data set that doesn't come with a package: which files it has, where they are looked for, and who has them.

    A local folder, ``$CONDENSERY_DATA/<name>`` or ``<cache>/data/<name>``, holds all files. Where there is none, the
    copy on the Hugging Face Hub is taken.

    :param name: of the folder.
    :param files: that a local folder must hold, each with the sha256 that is pinned, empty where none is: whether it is
        the file's or its content's is the task's to say.
    :param hub: the hub's copy; ``None``: it has none.
    :param source: where a user gets the files, in a few words.
    """

    name: str
    files: Mapping[str, str]
    hub: Hub | None = None
    source: str = ""

    def folders(self) -> list[Path]:
        """Return the folders that may hold the files, in the order in which they are looked at."""
        given = os.environ.get(FOLDER)
        roots = ([Path(given)] if given else []) + [cache_dir() / "data"]
        return [root / self.name for root in roots]

    def find(self) -> Path | None:
        """Return the local folder that holds all files, or ``None``."""
        for folder in self.folders():
            if not self.absent(folder):
                LOG.info("data set %s: %s", self.name, folder)
                return folder
        return None

    def absent(self, folder: Path) -> list[str]:
        """Return which files a folder lacks."""
        return [name for name in self.files if not (folder / name).is_file()]

    def missing(self, reason: str = "") -> UsageError:
        """Return the one error that names every place the data set was looked for.

        :param reason: why the hub's copy can't be had.
        """
        places = [f"${FOLDER}/{self.name}" if os.environ.get(FOLDER) else f"${FOLDER} (not set)"]
        places.append(str(self.folders()[-1]))
        if self.hub:
            places.append(f"Hugging Face Hub {self.hub.name!r}" + (f" ({reason})" if reason else ""))
        else:
            places.append("(no hub copy)")
        wanted = ", ".join([*self.files][:3]) + (", ..." if len(self.files) > 3 else "")
        return UsageError(
            f"data set {self.name!r} not found ({wanted}); looked in: {'; '.join(places)}; condensery data tells more"
        )

    def columns(self, file: str) -> dict[str, list[Any]]:
        """Return the columns of one file of the hub's copy, once its bytes were found to be those that are pinned.

        Needs the package ``pyarrow``. A hub that can't be reached is noticed within two seconds; where
        ``HF_HUB_OFFLINE`` is set only the hub's own cache is looked at.

        :param file: one of the copy's ``files``.
        :returns: by name; an image is a dictionary, whose ``bytes`` are those of a PNG.
        :raises UsageError: the one error of :meth:`missing`, with the reason; or naming the file if it is another one.
        """
        if self.hub is None:
            raise self.missing()
        try:
            from pyarrow import parquet  # type: ignore[import-not-found, unused-ignore]
        except ImportError:
            raise self.missing("needs the package 'pyarrow': pip install 'condensery[hub]'") from None
        if not hub_reachable():
            raise self.missing("can't be reached")
        try:
            path = self.hub.fetch(file)
        except Exception as error:  # a download fails in many ways, each with a class of its own
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise self.missing(reason[:200]) from error

        check_sha256(path, {path.name: self.hub.files[file]})
        found: dict[str, list[Any]] = parquet.read_table(path).to_pydict()
        return found


def check_content(source: object, content: bytes, want: str) -> None:
    """Compare what was read with its pinned sha256.

    :param source: of the content, for the message.
    :raises UsageError: naming the source if the content is not what was pinned.
    """
    _compare(source, hashlib.sha256(content).hexdigest(), want)


def check_sha256(path: Path, expected: Mapping[str, str]) -> None:
    """Compare a file with its pinned digest.

    :raises UsageError: naming the file if its content is not what was pinned.
    """
    want = expected.get(path.name)
    if not want:
        return
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while chunk := handle.read(1 << 20):
            digest.update(chunk)
    _compare(path, digest.hexdigest(), want)


def _compare(source: object, digest: str, want: str) -> None:
    if digest != want:
        raise UsageError(f"{source}: damaged or another version (sha256 {digest[:12]}..., expected {want[:12]}...)")


def read_gzip(path: Path, expected: Mapping[str, str]) -> bytes:
    """Return what a gzip file holds, after comparing it with its pinned digest.

    :param expected: sha256 of the *content* by file name: two packings of the same bytes are the same data.
    :raises UsageError: naming the file if it is damaged, or its content is not what was pinned.
    """
    try:
        content = inflate(path.read_bytes(), size_limit() // 4)
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: damaged or not gzip ({error})") from None
    if want := expected.get(path.name):
        check_content(path, content, want)
    return content


def stored_arrays(name: str, keys: Sequence[str], build: Callable[[], Arrays]) -> dict[str, NDArray[Any]]:
    """Return arrays that are built once and then kept as ``<cache>/decoded/<name>/<key>.npy``.

    The arrays are mapped from the files, copy on write: processes share the memory. A list of checksums is written
    last, so that arrays of a call that was killed, or that were damaged since, count as missing.

    :param build: returns an array for each of ``keys``; called where one is missing or damaged.
    :raises FileError: if the cache can't be written.
    """
    folder = cache_dir() / "decoded" / name
    paths = {key: folder / f"{key}.npy" for key in keys}

    if not is_stored(name, keys):
        built = build()
        for key, path in paths.items():
            write_atomic(path, lambda temporary, key=key: np.save(temporary, built[key]))  # type: ignore[misc]
        write_json(folder / SUMS, {key: _sum(path) for key, path in paths.items()})

    try:
        return {key: np.load(path, mmap_mode="c", allow_pickle=False) for key, path in paths.items()}
    except (OSError, ValueError, EOFError) as error:
        raise FileError(f"{folder} can't be read ({error}); remove it, it is made again") from None


def is_stored(name: str, keys: Sequence[str]) -> bool:
    """Tell whether :func:`stored_arrays` has all of these already, and whole."""
    folder = cache_dir() / "decoded" / name
    sums = cached_json(folder / SUMS)
    if sums is None:
        return False
    try:
        return all(key in sums and sums[key] == _sum(folder / f"{key}.npy") for key in keys)
    except OSError:
        return False


def _sum(path: Path) -> list[int]:
    """Return the length of a file and its checksum; a gigabyte takes less than a second."""
    found = 0
    with path.open("rb") as handle:
        while chunk := handle.read(1 << 22):
            found = zlib.crc32(chunk, found)
        return [handle.tell(), found]
