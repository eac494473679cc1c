"""Which layers a net can do without, because a shortcut leads around them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from condensery.clone import clone
from condensery.stage import Stage

EXAMPLES = 8
"""Training examples whose outputs are compared."""
SPREAD = 1e-4
"""Least difference between the outputs of some two examples, as a share of the largest output."""


class Shortcuts:
    """Tries what is left of a net's outputs without some layers.

    :param stage: whose student is looked at, as it is now; nothing of it is changed.
    """

    def __init__(self, stage: Stage) -> None:
        self.task = stage.task
        self.net = clone(stage.student.module).eval()
        self.batch = stage.sample(EXAMPLES)[0]

    def around(self, gone: Iterable[str]) -> bool:
        """Tell whether the outputs still depend on the inputs when some layers give zeros.

        :param gone: paths of the layers.
        """
        handles = [self.net.get_submodule(path).register_forward_hook(_zeros) for path in gone]
        with torch.no_grad():
            logits = self.task.logits(self.net, self.batch.inputs).float()
        for handle in handles:
            handle.remove()
        return bool((logits.amax(0) - logits.amin(0)).max() > SPREAD * logits.abs().max())

    def bypassed(self, paths: Sequence[str]) -> list[str]:
        """Return those layers around each of which a shortcut leads."""
        return [path for path in paths if self.around([path])]


def _zeros(module: nn.Module, args: object, out: Tensor) -> Tensor:
    return torch.zeros_like(out)
