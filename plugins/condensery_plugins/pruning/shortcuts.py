"""Which layers a net can do without, because a shortcut leads around them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from condensery.nets import clone, frozen
from condensery.run import Stage
from condensery.tasks import map_tensors

EXAMPLES = 8
"""Training examples that are tried."""


class Shortcuts:
    """Tries whether a net's outputs depend on its inputs without some layers.

    By gradients, which are exactly zero where nothing leads around, however small the weights are that do.

    :param stage: whose student is looked at, as it is now; nothing of it is changed.
    """

    def __init__(self, stage: Stage) -> None:
        self.answer = stage.answer
        self.net = frozen(clone(stage.student.module))
        self.inputs = stage.sample(EXAMPLES)[0].inputs

    def around(self, gone: Iterable[str]) -> bool:
        """Tell whether the outputs still depend on the inputs when some layers give zeros.

        :param gone: paths of the layers.
        """
        starts: list[Tensor] = []
        handles = [self.net.get_submodule(path).register_forward_hook(_zeros) for path in gone]
        for module in self.net.modules():
            if isinstance(module, nn.Embedding):  # inputs in whole numbers have no gradient, but what they pick has
                handles.append(module.register_forward_hook(lambda m, a, out: _mark(out, starts)))
        with torch.enable_grad():
            logits = self.answer(self.net, _marked(self.inputs, starts)).float()
        for handle in handles:
            handle.remove()
        if not logits.requires_grad:
            return False
        pull = torch.randn(logits.shape, generator=torch.Generator().manual_seed(0)).to(logits)
        grads = torch.autograd.grad(logits, starts, pull, allow_unused=True)
        return any(g is not None and bool(g.any()) for g in grads)

    def bypassed(self, paths: Sequence[str]) -> list[str]:
        """Return those layers around each of which a shortcut leads."""
        return [path for path in paths if self.around([path])]


def _zeros(module: nn.Module, args: object, out: Tensor) -> Tensor:
    return torch.zeros_like(out)


def _mark(value: Tensor, starts: list[Tensor]) -> Tensor:
    """Return a tensor of which gradients can be asked for."""
    starts.append(value.detach().requires_grad_(True))
    return starts[-1]


def _marked(inputs: Any, starts: list[Tensor]) -> Any:
    """Return inputs of which gradients can be asked for, where they are no whole numbers."""
    return map_tensors(lambda value: _mark(value, starts) if value.is_floating_point() else value, inputs)
