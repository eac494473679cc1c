"""The folder of one run: what it holds while it runs, and what is left when it has ended."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from condensery.errors import UsageError
from condensery.files import parse_json, read_json, sweep, unwritable, write_atomic, write_json
from condensery.run.processes import ALONE, Processes
from condensery.storage import load_tree, save_tree

ORIGINAL, NET, PROGRESS = "original.safetensors", "net.safetensors", "progress.safetensors"
ARTIFACT = "artifact.safetensors"


class RunFolder:
    """Reads and writes one run's files, each whole or not at all, while no other run does.

    The net after the last finished stage, and the progress of the running one, are the points that a run goes on from:
    each names the nets kept for later stages that belong to it, which were written before under names of their own. So
    a run that is killed between any two files goes on from the point before.

    While a run goes on: ``recipe.json``, ``log.jsonl``, the net at the recipe's start, the net after the last finished
    stage, the progress of the running one, and the nets that later stages refer to. Afterwards: recipe, log, report and
    the artifact.

    :param path: the folder; it appears with the first file.
    :param processes: that play the run: the first one writes, and all read at the same points of the run.
    :param resume: go on with what it holds.
    """

    def __init__(self, path: Path, processes: Processes = ALONE, *, resume: bool) -> None:
        self.path, self.processes, self.resume = path, processes, resume
        self._again = f"remove {path} to run it again"
        self._logged: set[tuple[str, Any]] = set()

    @contextlib.contextmanager
    def claimed(self, recipe: dict[str, Any]) -> Iterator[None]:
        """Hold the folder for as long as the run lasts, see :func:`claimed`; what a kill left half-written is swept.

        :raises UsageError: if another run holds it, or it holds another run's files by now.
        :raises FileError: if it can't be made.
        """
        with claimed(self.path) if self.processes.first else contextlib.nullcontext():
            if self.processes.first:
                self.check(recipe)
                sweep(self.path)
                self._logged = self._mend_log()
            self.processes.barrier()
            yield

    def check(self, recipe: dict[str, Any]) -> None:
        """Refuse a folder that holds another run, or a run that isn't to be resumed.

        :param recipe: the run's own, as plain data.
        :raises UsageError: saying what to do instead.
        :raises ArtifactError: if the folder's recipe is damaged.
        """
        known = self.path / "recipe.json"
        if not known.is_file():
            if self.resume and not self.path.is_dir():
                raise UsageError(f"nothing to resume: {self.path} doesn't exist")
            return

        if not self.resume:
            how = "say --resume (resume=True) to go on with it, or another --out"
            raise UsageError(f"{self.path} holds a run already; {how}")
        other = read_json(known, self._again)
        if other != json.loads(json.dumps(recipe)):
            raise UsageError(f"{self.path} holds a run of another recipe; say another --out")

    def report(self) -> dict[str, Any] | None:
        """Return the report of a run that has ended, or ``None`` if it hasn't, or isn't to be resumed."""
        path = self.path / "report.json"
        if not self.resume or not path.is_file():
            return None
        report: dict[str, Any] = read_json(path, self._again)
        self.tidy({ARTIFACT})  # a run that was killed right after its report left them
        return report

    def write(self, name: str, data: Any) -> None:
        """Write one JSON file."""
        if self.processes.first:
            write_json(self.path / name, data, plain)

    def log(self, entry: dict[str, Any]) -> None:
        """Add one line to the log, unless a run that was killed wrote it before it could save the rest.

        :raises FileError: if it can't be written.
        """
        if _place(entry) in self._logged or not self.processes.first:
            return
        path = self.path / "log.jsonl"
        try:
            with path.open("a") as handle:
                handle.write(json.dumps(entry, default=plain) + "\n")
        except OSError as error:
            raise unwritable(path, error) from None

    def _mend_log(self) -> set[tuple[str, Any]]:
        """Cut off a line that isn't whole; returns which epochs and ends of stages the others are about."""
        path = self.path / "log.jsonl"
        if not path.is_file():
            return set()
        lines = path.read_bytes().splitlines(keepends=True)
        whole = []
        for line in lines:
            with contextlib.suppress(ValueError):
                whole.append((_place(parse_json(line)), line))
        if len(whole) < len(lines):
            write_atomic(path, lambda temporary: temporary.write_bytes(b"".join(line for _, line in whole)))
        return {place for place, _ in whole}

    def save(self, name: str, tree: Any) -> None:
        """Write one tree of tensors."""
        if self.processes.first:
            save_tree(self.path / name, tree)

    def load(self, name: str) -> Any | None:
        """Return a tree that an earlier part of this run wrote, or ``None``."""
        path = self.path / name
        found = load_tree(path, self._again) if self.resume and path.is_file() else None
        self.processes.barrier()  # the first process goes on to write once all have read
        return found

    def needed(self, name: str) -> Any:
        """Return a tree that another file names.

        :raises ArtifactError: if it isn't there, or damaged.
        """
        found = load_tree(self.path / name, self._again)
        self.processes.barrier()
        return found

    def drop(self, name: str) -> None:
        """Remove one file, if it is there."""
        if self.processes.first:
            (self.path / name).unlink(missing_ok=True)

    def finish(self, report: dict[str, Any]) -> None:
        """Write the report, then remove what only a running run needs."""
        self.write("report.json", report)
        self.tidy({ARTIFACT})
        self.processes.barrier()

    def awaited(self) -> dict[str, Any]:
        """Return the report that the first process writes, as another one of its run."""
        self.processes.barrier()
        report: dict[str, Any] = read_json(self.path / "report.json", self._again)
        return report

    def tidy(self, keep: Container[str], pattern: str = "*.safetensors") -> None:
        """Remove the files of a pattern that are no longer needed."""
        for path in self.path.glob(pattern) if self.processes.first else ():
            if path.name not in keep:
                path.unlink(missing_ok=True)


@contextlib.contextmanager
def claimed(path: Path) -> Iterator[None]:
    """Hold a folder, which is made where it isn't there, for as long as the context lasts.

    The lock is the folder's own and ends with the process.

    :raises UsageError: if another process holds it.
    :raises FileError: if it can't be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise unwritable(path, error) from None
    try:
        if not locked(handle):
            raise UsageError(f"{path}: another run is writing there; wait until it ends, or say another --out")
        yield
    finally:
        os.close(handle)


def locked(handle: int) -> bool:
    """Lock an open folder for this process; tells whether no other one had it."""
    try:
        import fcntl
    except ImportError:  # Windows has no such lock, and a run there is as safe as its user is careful
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _place(entry: dict[str, Any]) -> tuple[str, Any]:
    """Return which epoch of which stage a line of the log is about; ``None`` for the stage's end."""
    return str(entry.get("stage")), entry.get("epoch")


def plain(value: Any) -> Any:
    """Turn a tensor or a path into JSON data.

    :raises TypeError: for anything else.
    """
    if isinstance(value, Tensor):
        return value.item() if value.dim() == 0 else value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"not JSON: {type(value).__name__}")
