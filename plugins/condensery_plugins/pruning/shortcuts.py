"""Which layers a net can do without, because a shortcut leads around them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from condensery import Stage
from condensery.nets import clone, frozen
from condensery.tasks import map_tensors

EXAMPLES = 8
"""Training examples that are tried."""


class Shortcuts:
    """Tries whether a net's outputs still depend on its inputs when some of its layers give zeros.

    It looks at gradients: they are exactly zero where nothing leads around the layers, and else they aren't, however
    small the weights on the way are.

    :param stage: whose student is looked at, as it is now; nothing of it is changed.
    """

    def __init__(self, stage: Stage) -> None:
        self.answers = stage.task.answers
        self.net = frozen(clone(stage.student.module))
        self.inputs = stage.sample(EXAMPLES)[0].inputs

    def around(self, gone: Iterable[str]) -> bool:
        """Tell whether the outputs still depend on the inputs when some layers give zeros.

        :param gone: paths of the layers.
        """
        starts: list[Tensor] = []  # what gradients are taken by: the inputs, and what embeddings pick by them

        handles = [self.net.get_submodule(path).register_forward_hook(_zeros) for path in gone]
        for module in self.net.modules():
            if isinstance(module, nn.Embedding):  # inputs in whole numbers have no gradient, but what they pick has
                handles.append(module.register_forward_hook(lambda m, a, out: _mark(out, starts)))

        with torch.enable_grad():
            found = [out.float() for out in self.answers(self.net, _marked(self.inputs, starts)) if out.requires_grad]
        for handle in handles:
            handle.remove()

        if not found:
            return False
        # A random direction: the sum of all outputs, for one, may have no gradient where each of them has.
        generator = torch.Generator().manual_seed(0)
        pulls = [torch.randn(out.shape, generator=generator).to(out) for out in found]
        grads = torch.autograd.grad(found, starts, pulls, allow_unused=True)
        return any(g is not None and bool(g.any()) for g in grads)

    def bypassed(self, paths: Sequence[str]) -> list[str]:
        """Return those of some layers which the net can do without, each alone; paths, in the order given."""
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
