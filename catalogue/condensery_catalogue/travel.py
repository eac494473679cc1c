"""Fill another machine: ``python -m condensery_catalogue.travel DIR [KEY ...] [--tier T] [--size MIB] [--data NAME]``.

It packs the code of this checkout, and the data that the pending reproductions need, into parcels of a size that can be
carried. On the other machine, which needs Python with the packages of ``pyproject.toml`` and no network::

    sh unpack.sh                     # puts the parcels together: code/, data/, meta/
    sh go.sh --budget 25m --jobs 4   # runs there what was packed; again goes on where it stood
    sh back.sh                       # packs what was finished into results.zip

and here ``condensery results import results.zip runs/pending``. Nothing has to be installed there: ``meta/`` holds the
entry points by which core finds the plugins.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import io
import json
import os
import shlex
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from condensery.contract import Registry
from condensery.errors import CondenseryError, UsageError
from condensery_catalogue.pending import pending_tiers

SOURCES = ("core", "plugins", "catalogue", "reproductions")
SCRIPTS = {
    "unpack.sh": "cat parcel-* | tar xf -\n",
    "go.sh": 'exec python3 -m condensery_catalogue.cli reproduce --pending {queue} --out runs "$@"\n',
    "back.sh": "exec python3 -m condensery_catalogue.cli results export runs results.zip\n",
}
HEAD = """#!/bin/sh
set -eu
cd "$(dirname "$0")"
export PYTHONPATH="$PWD/code/core:$PWD/code/plugins:$PWD/code/catalogue:$PWD/code/reproductions:$PWD/meta"
export CONDENSERY_DATA="$PWD/data" CONDENSERY_CACHE="$PWD/cache"
"""


class Parcels(io.RawIOBase):
    """A stream to write to that begins a new file whenever one is full.

    :param size: bytes of a file at most.
    """

    def __init__(self, folder: Path, size: int) -> None:
        super().__init__()
        self.folder, self.size, self.count = folder, size, 0
        self._file: IO[bytes] | None = None
        self._left = 0

    def writable(self) -> bool:
        """Say that it can be written to."""
        return True

    def write(self, data: Any) -> int:
        """Write bytes, over as many files as they need."""
        view = memoryview(data).cast("B")
        for start in range(0, len(view), 1 << 20):
            piece = view[start : start + (1 << 20)]
            while piece:
                if not self._left:
                    self._next()
                assert self._file is not None
                taken = self._file.write(piece[: self._left])
                self._left -= taken
                piece = piece[taken:]
        return len(view)

    def _next(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file = (self.folder / f"parcel-{self.count:03}").open("wb")
        self.count, self._left = self.count + 1, self.size

    def close(self) -> None:
        """Close the last file."""
        if self._file is not None:
            self._file.close()
        super().close()


def pack(target: Path, keys: Sequence[str], tiers: Sequence[str], size: int, data: Sequence[str]) -> int:
    """Write the parcels and the three scripts; return how many parcels there are.

    :param size: bytes of a parcel at most.
    :param data: folders of ``$CONDENSERY_DATA`` to take along beside those that the recipes name.
    :raises UsageError: outside a checkout, for a folder that isn't empty, and for data that aren't there.
    """
    if target.exists() and any(target.iterdir()):
        raise UsageError(f"{target} isn't empty: say another folder")
    files = list(_code())
    names = sorted({*data, *_named(keys, tiers)})

    target.mkdir(parents=True, exist_ok=True)
    parcels = Parcels(target, size)
    with parcels, tarfile.open(fileobj=parcels, mode="w|") as packed:
        for path in files:
            packed.add(path, f"code/{path.as_posix()}")
        for name in names:
            packed.add(_data_root() / name, f"data/{name}")
        for name, text in _metadata().items():
            entry = tarfile.TarInfo(f"meta/{name}")
            entry.size = len(text)
            packed.addfile(entry, io.BytesIO(text))

    # What wasn't asked for has no data there: the queue is the one that was packed.
    queue = [*keys, *(f"--tier={tier}" for tier in tiers if len(tiers) == 1)]
    for name, script in SCRIPTS.items():
        (target / name).write_text(HEAD + script.replace("{queue}", shlex.join(queue)), encoding="utf-8")
    return parcels.count


def _code() -> Iterator[Path]:
    """Yield the files of the checkout's own packages, those that git knows."""
    listed = subprocess.run(["git", "ls-files", "-z", *SOURCES], capture_output=True, text=True, check=False)
    if listed.returncode or not listed.stdout:
        raise UsageError("no checkout here: run it in the folder that holds core/, plugins/ and the others")
    yield from (Path(name) for name in listed.stdout.split("\0") if name)


def _data_root() -> Path:
    root = os.environ.get("CONDENSERY_DATA")
    if not root:
        raise UsageError("CONDENSERY_DATA isn't set: it names the folder that holds the data")
    return Path(root)


def _named(keys: Sequence[str], tiers: Sequence[str]) -> Iterator[str]:
    """Yield the folders of data that the pending recipes name: of their tasks, and of weights that they start from."""
    there = {path.name for path in _data_root().iterdir() if path.is_dir()}
    for item in pending_tiers(Registry.open(), tiers, Path("runs"), keys):
        for recipe in item.jobs.chosen.recipes(item.jobs.plan.key).values():
            text = json.dumps(recipe.dump())
            yield from (n for n in there if n == recipe.task.key or f"CONDENSERY_DATA/{n}/" in text)


def _metadata() -> dict[str, bytes]:
    """Return the files by which entry points are found where the package isn't installed."""
    version = importlib.metadata.version("condensery")
    points = importlib.metadata.distribution("condensery").entry_points.select(group="condensery")
    lines = "\n".join(f"{point.name} = {point.value}" for point in points)
    folder = f"condensery-{version}.dist-info"
    return {
        f"{folder}/METADATA": f"Metadata-Version: 2.1\nName: condensery\nVersion: {version}\n".encode(),
        f"{folder}/entry_points.txt": f"[condensery]\n{lines}\n".encode(),
    }


def main(arguments: Sequence[str]) -> int:
    """Pack what the arguments ask for; errors are one line."""
    parser = argparse.ArgumentParser(prog="python -m condensery_catalogue.travel", description="Fill another machine.")
    parser.add_argument("target", type=Path)
    parser.add_argument("keys", nargs="*", help="reproductions; all that lack a result by default")
    parser.add_argument("--tier", action="append", help="desk or paper; both by default")
    parser.add_argument("--size", type=int, default=64, help="MiB of a parcel at most")
    parser.add_argument("--data", action="append", default=[], help="another folder of $CONDENSERY_DATA to take along")
    given = parser.parse_args(arguments)
    try:
        count = pack(given.target, given.keys, given.tier or ("desk", "paper"), given.size * 2**20, given.data)
    except CondenseryError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{count} parcels in {given.target}; there: sh unpack.sh, sh go.sh --budget 25m, sh back.sh")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
