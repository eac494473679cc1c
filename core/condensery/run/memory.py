"""What a net that doesn't change has answered before, by example: a teacher whose answers are kept isn't asked twice.

Off unless ``$CONDENSERY_TEACHER_MB`` says how many megabytes the answers may fill in the cache. They change no result,
so that they are no part of a recipe.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from condensery.errors import UsageError
from condensery.files import cache_dir
from condensery.recipe import fingerprint
from condensery.storage import cached_tree, save_tree
from condensery.tasks import Batch, hash_tree

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

    An example is known by its bytes and by the size of its batch: augmented with another seed it is another example,
    and kernels may round otherwise in a batch of another size. The first batch that is known as a whole is asked all
    the same: where an answer differs in any bit, as where it depends on the rest of its batch, nothing is kept.

    :param identity: plain data that tell this net, and how it is asked, from all others.
    :param limit: bytes that it may fill; the longest unused files of other nets go where all take more.
    """

    def __init__(self, identity: Mapping[str, Any], limit: int) -> None:
        self.path, self.limit = cache_dir() / "answers" / f"{fingerprint(identity)}.safetensors", limit
        self.asked = self.known = 0
        self._form: TreeSpec | None = None
        self._trusted = True
        self._answers: dict[str, tuple[Tensor, ...]] = {}
        for group in cached_tree(self.path) or []:
            self._answers |= zip(group["keys"], zip(*group["answers"], strict=True), strict=True)
        self._bytes, self._saved = sum(map(_bytes, self._answers.values())), len(self._answers)

    def answer(self, batch: Batch, ask: Callable[[], Any]) -> Any:
        """Return a net's outputs for a batch.

        :param ask: asks the net itself.
        """
        size = batch.size
        self.asked += size
        keys = [f"{size} {hash_tree(vars(batch.part(n, n + 1)))}" for n in range(size)]
        found = [self._answers[key] for key in keys if key in self._answers]
        whole = self._laid_together(found, batch.device) if len(found) == size else []
        if whole and self._form is not None:
            self.known += size
            return tree_unflatten(whole, self._form)

        tree = ask()
        leaves, form = tree_flatten(tree)
        if self._trusted and all(_splits(leaf, size) for leaf in leaves):
            if whole:
                self._prove(whole, leaves, form)
            else:
                self._keep(keys, leaves)
        return tree

    def save(self) -> None:
        """Write what has come since the file was read, and drop the longest unused files of others beyond the limit.

        :raises FileError: if it can't be written.
        """
        groups: defaultdict[str, dict[str, tuple[Tensor, ...]]] = defaultdict(dict)
        for key, answer in self._answers.items():
            groups[_form_of(answer)][key] = answer
        if len(self._answers) > self._saved:
            tree = [
                {"keys": [*g], "answers": list(map(torch.stack, zip(*g.values(), strict=True)))}
                for g in groups.values()
            ]
            save_tree(self.path, tree)
            self._saved = len(self._answers)
        elif self.known:
            os.utime(self.path)
        _tidy(self.path, self.limit)

    def _prove(self, whole: Sequence[Tensor], leaves: Sequence[Tensor], form: TreeSpec) -> None:
        """Trust what is kept if it is what the net answers, else keep nothing from now on."""
        if len(whole) == len(leaves) and all(map(torch.equal, whole, leaves)):
            self._form = form
        else:
            self._answers.clear()
            self._trusted = False

    @staticmethod
    def _laid_together(answers: Sequence[tuple[Tensor, ...]], device: torch.device) -> list[Tensor]:
        """Return the answers of a batch's examples as tensors of the whole batch; none where their shapes differ."""
        if len({_form_of(answer) for answer in answers}) > 1:
            return []
        return [torch.stack(parts).to(device) for parts in zip(*answers, strict=True)]

    def _keep(self, keys: Sequence[str], leaves: Sequence[Tensor]) -> None:
        """Keep the answers of a batch as long as there is room."""
        if self._bytes + _bytes(leaves) > self.limit:
            return
        parts = [leaf.detach().cpu().clone() for leaf in leaves]
        self._answers |= zip(keys, zip(*parts, strict=True), strict=True)
        self._bytes += _bytes(leaves)


def _splits(leaf: Any, size: int) -> bool:
    """Tell whether an output has one part for each example, which can be laid together again as they were."""
    return isinstance(leaf, Tensor) and leaf.dim() > 0 and len(leaf) == size and leaf.is_contiguous()


def _form_of(answer: Sequence[Tensor]) -> str:
    return str([(tuple(part.shape), part.dtype) for part in answer])


def _bytes(tensors: Sequence[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _tidy(mine: Path, limit: int) -> None:
    """Drop files beside one, those that weren't used for longest first, until all of them fit into a limit."""
    found = sorted(mine.parent.glob("*.safetensors"), key=lambda file: file.stat().st_mtime)
    total = sum(file.stat().st_size for file in found)
    for file in found:
        if total > limit and file != mine:
            total -= file.stat().st_size
            file.unlink(missing_ok=True)
