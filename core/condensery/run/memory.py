"""What a net that doesn't change has answered before, by batch: a teacher whose answers are kept isn't asked twice.

Off unless ``$CONDENSERY_TEACHER_MB`` says how many megabytes the answers may fill in the cache. They change no result,
so that they are no part of a recipe.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from condensery.errors import UsageError
from condensery.files import cache_dir
from condensery.recipe import fingerprint
from condensery.storage import cached_tree, save_tree
from condensery.tasks import Batch, hash_tree, map_tensors, tensors_in

LIMIT = "CONDENSERY_TEACHER_MB"


def room() -> int:
    """Return how many bytes the answers of all teachers may fill; 0, nothing is kept.

    :raises UsageError: if ``$CONDENSERY_TEACHER_MB`` is no number.
    """
    given = os.environ.get(LIMIT) or "0"
    if not given.isdecimal():
        raise UsageError(f"{LIMIT} must be a whole number of megabytes, 0 for none; got {given[:40]!r}")
    return int(given) * 1_000_000


class Memory:
    """The answers of one net by what it was asked, in one file of the cache.

    A batch is known by its bytes, so that one of other examples, in another order or augmented by another seed, is
    another one. Single examples aren't kept: on some processors the last bits of an answer depend on an example's place
    in its batch, and a run must leave the same net with kept answers and without.

    :param identity: plain data that tell this net, and how it is asked, from all others.
    :param limit: bytes that it may fill; the longest unused files of other nets go where all take more.
    """

    def __init__(self, identity: Mapping[str, Any], limit: int) -> None:
        self.path, self.limit = cache_dir() / "answers" / f"{fingerprint(identity)}.safetensors", limit
        self.asked = self.known = 0
        self._answers: dict[str, Any] = cached_tree(self.path) or {}
        self._bytes, self._saved = _bytes(tuple(self._answers.values())), len(self._answers)

    def answer(self, batch: Batch, ask: Callable[[], Any]) -> Any:
        """Return a net's outputs for a batch.

        :param ask: asks the net itself.
        """
        self.asked += 1
        key = hash_tree(batch.content())
        if key in self._answers:
            self.known += 1
            return map_tensors(lambda kept: kept.to(batch.device, copy=True), self._answers[key])

        tree = ask()
        if _is_plain(tree) and self._bytes + _bytes(tree) <= self.limit:
            self._answers[key] = map_tensors(lambda given: given.detach().cpu().clone(), tree)
            self._bytes += _bytes(tree)
        return tree

    def save(self) -> None:
        """Write what has come since the file was read, and drop the longest unused files of others beyond the limit.

        :raises FileError: if it can't be written.
        """
        if len(self._answers) > self._saved:
            save_tree(self.path, self._answers)
            self._saved = len(self._answers)
        elif self.known and self.path.is_file():
            os.utime(self.path)
        _tidy(self.path, self.limit)


def _is_plain(tree: Any) -> bool:
    """Tell whether a file gives a tree back as it is: tensors as they lie in memory, in plain containers."""
    if isinstance(tree, Tensor):
        return tree.is_contiguous()
    if type(tree) is dict:
        return all(isinstance(name, str) and _is_plain(part) for name, part in tree.items())
    return type(tree) in (list, tuple) and all(map(_is_plain, tree))


def _bytes(tree: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors_in(tree))


def _tidy(mine: Path, limit: int) -> None:
    """Drop files beside one, those that weren't used for longest first, until all of them fit into a limit."""
    sizes = {}
    for file in mine.parent.glob("*.safetensors"):
        with contextlib.suppress(FileNotFoundError):  # another run may tidy here too
            sizes[file] = file.stat()
    total = sum(found.st_size for found in sizes.values())
    for file in sorted(sizes, key=lambda file: sizes[file].st_mtime):
        if total > limit and file != mine:
            total -= sizes[file].st_size
            file.unlink(missing_ok=True)
