"""The folder of one run: what it holds while it runs, and what is left when it has ended."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from condensery.errors import ArtifactError, UsageError
from condensery.files import write_atomic
from condensery.storage import load_tree, save_tree

ORIGINAL, NET, PROGRESS = "original.safetensors", "net.safetensors", "progress.safetensors"
ARTIFACT = "artifact.safetensors"


class RunFolder:
    """Reads and writes one run's files, each whole or not at all.

    While a run goes on: ``recipe.json``, ``log.jsonl``, the net at the recipe's start, the net after the last finished
    stage, the progress of the running one, and the nets that later stages refer to. Afterwards: recipe, log, report and
    the artifact.

    :param path: the folder; it appears with the first file.
    :param resume: go on with what it holds.
    """

    def __init__(self, path: Path, *, resume: bool) -> None:
        self.path, self.resume = path, resume

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
            raise UsageError(f"{self.path} holds a run already; say --resume to go on with it, or another --out")
        try:
            other = json.loads(known.read_text())
        except (OSError, ValueError) as error:
            raise ArtifactError(f"{known}: damaged: {error}") from None
        if other != json.loads(json.dumps(recipe)):
            raise UsageError(f"{self.path} holds a run of another recipe; say another --out")

    def report(self) -> dict[str, Any] | None:
        """Return the report of a run that has ended, or ``None`` if it hasn't, or isn't to be resumed."""
        path = self.path / "report.json"
        if not self.resume or not path.is_file():
            return None
        report: dict[str, Any] = json.loads(path.read_text())
        return report

    def write(self, name: str, data: Any) -> None:
        """Write one JSON file."""
        text = json.dumps(data, indent=1, default=plain) + "\n"
        write_atomic(self.path / name, lambda temporary: temporary.write_text(text))

    def log(self, entry: dict[str, Any]) -> None:
        """Add one line to the log."""
        with (self.path / "log.jsonl").open("a") as handle:
            handle.write(json.dumps(entry, default=plain) + "\n")

    def save(self, name: str, tree: Any) -> None:
        """Write one tree of tensors."""
        save_tree(self.path / name, tree)

    def load(self, name: str) -> Any | None:
        """Return a tree that an earlier part of this run wrote, or ``None``."""
        path = self.path / name
        return load_tree(path) if self.resume and path.is_file() else None

    def drop(self, name: str) -> None:
        """Remove one file, if it is there."""
        (self.path / name).unlink(missing_ok=True)

    def finish(self, report: dict[str, Any]) -> None:
        """Write the report, then remove what only a running run needs."""
        self.write("report.json", report)
        for path in self.path.glob("*.safetensors"):
            if path.name != ARTIFACT:
                path.unlink()


def plain(value: Any) -> Any:
    """Turn a tensor or a path into JSON data.

    :raises TypeError: for anything else.
    """
    if isinstance(value, Tensor):
        return value.item() if value.dim() == 0 else value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"not JSON: {type(value).__name__}")
