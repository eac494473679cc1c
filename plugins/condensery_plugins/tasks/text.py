"""Text as fixed-length rows of token numbers: what the text tasks share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from condensery.tasks import TaskFacts
from condensery_plugins.tasks.tensors import TensorTask

PAD, UNKNOWN, START, SEPARATOR = 0, 1, 2, 3
"""Token numbers with a meaning of their own in the vocabularies that are built here."""
SPECIAL = 4


class TextTask(TensorTask):
    """Rows of ``input_ids`` with an ``attention_mask``, stored as int32 and bool; batches hold int64.

    Subclasses set ``facts``.
    """

    extra: tuple[str, ...] = ()
    """Further inputs that are stored, such as ``token_type_ids``."""

    def inputs(self, stored: Mapping[str, Tensor], index: Tensor, noise: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return a mapping of tensors, each ``(batch, length)`` of int64."""
        return {name: value[index].long() for name, value in stored.items()}

    def example(self, batch_size: int = 2) -> dict[str, Tensor]:
        """Return full rows of random tokens, ``(batch, length)`` each."""
        facts: TaskFacts = self.facts
        shape = (batch_size, facts.length)
        first = min(SPECIAL, facts.vocabulary - 1)
        ids = torch.randint(first, facts.vocabulary, shape, generator=torch.Generator().manual_seed(0))
        more = {name: torch.zeros_like(ids) for name in self.extra}
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), **more}


def padded(rows: Sequence[Sequence[int]], length: int) -> dict[str, NDArray[Any]]:
    """Return rows of token numbers cut or filled up to ``length``, and where they are not filled.

    :returns: ``input_ids`` and ``attention_mask``, each ``(rows, length)``.
    """
    ids = np.full((len(rows), length), PAD, np.int32)
    for number, row in enumerate(rows):
        kept = row[:length]
        ids[number, : len(kept)] = kept
    return {"input_ids": ids, "attention_mask": ids != PAD}
